#!/bin/bash
# Seven small programs that show what piped is: real python3 children, driven through a real daemon by pipectl, with a transcript
# of every command and its output. `make demo` builds and runs it. Each outcome is checked: a wrong one ends the demo with an
# error that says what was expected. Nothing is left behind.
#
#   demo.sh [BIN]     BIN is the directory that holds the programs, by default bin/ of this repository
set -euo pipefail

# One of these in the surroundings would change what the commands do.
unset CDPATH "${!PIPED_@}" "${!PYTHON@}"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
bin=$(realpath -m -- "${1:-$here/../../bin}")
export PATH="$bin:${PATH:-/usr/local/bin:/usr/bin:/bin}" LC_ALL=C.UTF-8
cd -- "$here"
exec </dev/null

# No command may take longer, in seconds.
readonly patience=30

for program in piped piped-keeper pipectl; do
	if ! [ -x "$bin/$program" ]; then
		echo "demo: $bin/$program is not there: run make demo, which builds it" >&2
		exit 1
	fi
done
if ! command -v python3 >/dev/null; then
	echo 'demo: python3 is not there: install it first (Debian: apt-get install python3)' >&2
	exit 1
fi

# The daemon is the demo's own, in a private directory; the path of a socket has little room, so not below TMPDIR.
dir=$(mktemp -d /tmp/piped-demo.XXXXXX)
daemon=
export PIPED_ADDR="unix://$dir/piped.sock"

# stop_daemon tells the daemon to end and waits until it has; it fails where that takes too long.
stop_daemon() {
	local deadline=$((SECONDS + patience))
	kill -TERM "$daemon" 2>/dev/null || true
	while kill -0 "$daemon" 2>/dev/null; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.02
	done
}

finish() {
	local code=$?
	trap - EXIT
	if [ -n "$daemon" ] && ! stop_daemon; then
		kill -KILL "$daemon" || true
	fi
	rm -rf -- "$dir"
	exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# fail WHAT [LINE...]: says what was expected, and what the daemon has logged.
fail() {
	printf 'demo: FAILED: %s\n' "$1" >&2
	shift
	{
		[ $# -eq 0 ] || printf '%s\n' "$@"
		echo 'The log of piped:'
		cat "$dir/log"
	} | sed 's/^/demo:   /' >&2
	exit 1
}

heading() { printf '\n\n=== %s ===\n' "$1"; }

# say prints its stdin, the explanation of what comes next.
say() {
	echo
	cat
	echo
}

# The output of the last command, stderr included.
output=

# capture COMMAND: sets output and code.
capture() {
	code=0
	output=$(timeout "$patience" bash -o pipefail -c "$1" 2>&1) || code=$?
}

# transcribe COMMAND: shows the command, and output and code as they are.
transcribe() {
	printf '  $ %s\n' "$1"
	[ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/  /'
	[ "$code" -eq 0 ] || printf '  (exit code %s)\n' "$code"
}

# run COMMAND [CODE]: shows and runs a command that must exit with CODE, 0 if not given.
run() {
	capture "$1"
	transcribe "$1"
	[ "$code" -eq "${2:-0}" ] || fail "expected exit code ${2:-0}, got $code from: $1"
}

# run_until PATTERN COMMAND: repeats the command until its output matches the extended regular expression; shows the last time.
run_until() {
	local deadline=$((SECONDS + patience))
	capture "$2"
	until [[ $output =~ $1 ]]; do
		if [ "$SECONDS" -ge "$deadline" ]; then
			transcribe "$2"
			fail "expected, within $patience s, something that matches $1, from: $2"
		fi
		sleep 0.02
		capture "$2"
	done
	transcribe "$2"
}

# expect LINE...: these lines are all that the last command has said.
expect() {
	local want
	want=$(printf '%s\n' "$@")
	[ "$output" = "$want" ] || fail 'expected this output:' "$want" 'Got this:' "$output"
}

# expect_match PATTERN: the output of the last command matches the extended regular expression.
expect_match() {
	[[ $output =~ $1 ]] || fail "expected output that matches: $1" 'Got this:' "$output"
}

# show_program FILE: the text of a program that is about to run.
show_program() { run "cat $1"; }

# The loop is for the shell that runs it.
# shellcheck disable=SC2016
send_five='for i in 0 1 2 3 4; do python3 pickled.py Hello $i | pipectl send'
five_lines=("received 'Hello 0'" "received 'Hello 1'" "received 'Hello 2'" "received 'Hello 3'" "received 'Hello 4'")

# show_asleep: the process of the last output (of inspect) sleeps; sets pid.
show_asleep() {
	expect_match ': running, pid ([0-9]+)'
	pid=${BASH_REMATCH[1]}
	run_until 'State:.S' "grep State: /proc/$pid/status"
}

start_daemon() {
	# What the daemon has in its environment its children may get: so it has nothing that the demo does not need.
	env -i PATH="$PATH" HOME="${HOME:-/}" LANG=C.UTF-8 piped --listen "$PIPED_ADDR" >"$dir/log" 2>&1 &
	daemon=$!
	cat <<-END
		piped is a daemon that owns programs and the pipes to them. Anybody who may talk to it can send messages into a pipe
		and receive messages from it, from a shell (with pipectl, as here) or from any language (over gRPC). What follows are
		real programs under a real daemon; lines that begin with "\$" are what you would type. The daemon of this demo was
		started so:

		  \$ piped --listen $PIPED_ADDR &
		  \$ export PIPED_ADDR=$PIPED_ADDR
	END
	local deadline=$((SECONDS + patience))
	until timeout "$patience" pipectl info >/dev/null 2>&1; do
		kill -0 "$daemon" 2>/dev/null || fail 'expected a daemon that listens; it has ended'
		[ "$SECONDS" -lt "$deadline" ] || fail "expected a daemon that listens within $patience s"
		sleep 0.02
	done
}

program_1() {
	heading '1. Both ends in one place'
	say <<-'END'
		A pipe has two ends, 1 and 2. What is sent into one is received from the other. "one" names the session, which here is
		nothing but that pipe; "one:1" and "one:2" are its ends. The daemon holds both.
	END
	run 'pipectl pipe --name one'
	expect one
	run 'pipectl send one:1 123456'
	run 'pipectl recv one:2 --timeout 20s'
	expect 123456
	say <<-'END'
		Those were lines of text. Python's multiprocessing talks in pickled objects with a length before each; piped knows how
		these are framed ("mp") and leaves what is in them to you. pickled.py and unpickled.py are a few lines around pickle.
		It works both ways.
	END
	run 'pipectl pipe --session one --pipe objects --framing mp'
	run 'python3 pickled.py 123456 | pipectl send one/objects:1 --file -'
	run 'pipectl recv one/objects:2 --raw --timeout 20s | python3 unpickled.py'
	expect 123456
	run 'python3 pickled.py "{\"answer\": 42}" | pipectl send one/objects:2 --file -'
	run 'pipectl recv one/objects:1 --raw --timeout 20s | python3 unpickled.py'
	expect "{'answer': 42}"
}

program_2() {
	heading '2. A child has one end and sends'
	say <<-'END'
		Now a program holds end 2, and we keep end 1. The program is plain Python: a Connection on a descriptor it was given.
		"--fd ctl:3:mp" makes a pipe "ctl" whose end the program gets as its descriptor 3.
	END
	show_program sender.py
	run 'pipectl start --name two --fd ctl:3:mp -- python3 sender.py'
	expect two
	run 'pipectl recv two/ctl --raw --timeout 20s | python3 unpickled.py'
	expect "'Hello'"
	say <<-'END'
		It closed its end, which was the last copy of it, so receiving again says that the pipe has ended. That it has ended
		and that the program has exited are two things, and each is told by itself.
	END
	run 'pipectl recv two/ctl --timeout 20s' 3
	expect_match 'the end came after 0 of 1 message: closed'
	run 'pipectl wait two --timeout 20s'
	expect 'exit 0'
}

program_3() {
	heading '3. We send, a child receives for ever'
	say <<-'END'
		The child prints what it receives to its stdout, which is a pipe of the session too: "stdio", the first one, so that
		"three" alone means it.
	END
	show_program receiver.py
	run 'pipectl start --name three --fd ctl:3:mp --env PYTHONUNBUFFERED=1 -- python3 receiver.py'
	run "$send_five three/ctl --file -; done"
	run 'pipectl recv three -n 5 --timeout 20s'
	expect "${five_lines[@]}"
	say <<-'END'
		And now? It waits in recv() for a sixth, and would for ever. It runs, and it sleeps:
	END
	run "pipectl inspect three | grep '^process'"
	show_asleep
	say <<-'END'
		All five were handed over and none waits; it has printed nothing more (poll exits with 124 when there is nothing);
		and asked by a signal where it is, Python itself answers: in recv, called from the last line of receiver.py.
	END
	run "pipectl inspect three | grep -A 3 '^pipe ctl' | grep sent"
	expect_match 'sent 5 messages, [0-9]+ bytes$'
	run 'pipectl poll three --timeout 0' 124
	run 'pipectl signal three USR1'
	run_until 'in <module>' 'pipectl tail three/stderr'
	expect_match 'connection\.py", line [0-9]+ in recv'
	expect_match 'receiver\.py", line 9 in <module>'
	say <<-'END'
		So it is still there, and we stop it.
	END
	run 'pipectl wait three --timeout 0' 124
	run 'pipectl signal three TERM'
	run 'pipectl wait three --timeout 20s'
	expect 'signal TERM'
}

program_4() {
	heading '4. The same, ended by a message'
	say <<-'END'
		The usual way to end such a loop is a message that both sides have agreed on: None.
	END
	show_program until_none.py
	run 'pipectl start --name four --fd ctl:3:mp --env PYTHONUNBUFFERED=1 -- python3 until_none.py'
	run "$send_five four/ctl --file -; done"
	run 'python3 pickled.py None | pipectl send four/ctl --file -'
	run 'timeout 20 pipectl recv four --follow'
	expect "${five_lines[@]}" 'that was None: done'
	run 'pipectl wait four --timeout 20s'
	expect 'exit 0'
}

program_5() {
	heading '5. End of file, and who prevents it'
	say <<-'END'
		The other way to end it is to close our end. The other side then sees the end of the pipe, exactly after the last
		message, but only when the LAST copy of our end is closed: a child may have inherited one. Here the daemon holds both
		ends and the child gets a copy of both, so there are four copies. The child closes its copy of end 1.
	END
	show_program both_ends.py
	run 'pipectl pipe --name five --framing mp'
	run 'pipectl start --session five --inherit pipe:1:3 --inherit pipe:2:4 --env PYTHONUNBUFFERED=1 -- python3 both_ends.py'
	run 'pipectl recv five/stdio --timeout 20s'
	expect 'closed my copy of end 1'
	say <<-'END'
		We close our copy of end 2, send five into end 1, and close that. There is no end 1 any more.
	END
	run 'pipectl close five:2'
	run "$send_five five:1 --file -; done"
	run 'pipectl close five:1'
	run 'timeout 20 pipectl recv five/stdio --follow'
	expect "${five_lines[@]}" 'EOFError: the end of the pipe'
	run 'pipectl wait five --timeout 20s'
	expect 'exit 0'
	counter_proof
}

counter_proof() {
	say <<-'END'
		The counter-proof: a child that keeps its copy of end 1.
	END
	show_program kept_end.py
	run 'pipectl pipe --name kept --framing mp'
	run 'pipectl start --session kept --inherit pipe:1:3 --inherit pipe:2:4 --env PYTHONUNBUFFERED=1 -- python3 kept_end.py'
	run 'pipectl close kept:2'
	run "$send_five kept:1 --file -; done"
	run 'pipectl close kept:1 --wait'
	run 'pipectl recv kept/stdio -n 6 --timeout 20s'
	expect 'keep my copy of end 1' "${five_lines[@]}"
	say <<-'END'
		We have closed everything we had, and yet no end of file comes: the child sleeps, and has printed nothing more.
	END
	run "pipectl inspect kept | grep '^process'"
	show_asleep
	run 'pipectl poll kept/stdio --timeout 0' 124
	say <<-'END'
		Who prevents it? inspect names everybody who holds a copy of an end. End 1 is closed here, and the child has it
		still, as its descriptor 3:
	END
	run "pipectl inspect kept | grep -A 2 '^pipe pipe'"
	expect_match "end 1: closed.*held by pid $pid: .*kept_end\\.py, descriptor 3"
	say <<-'END'
		The signal makes the child close that copy, the last one, and at once it sees the end of the pipe.
	END
	run 'pipectl signal kept USR1'
	run 'timeout 20 pipectl recv kept/stdio --follow'
	expect 'EOFError: the end of the pipe'
	run 'pipectl wait kept --timeout 20s'
	expect 'exit 0'
}

program_6() {
	heading '6. An ordinary filter'
	say <<-'END'
		None of this is about Python. sort answers only when its input has ended, so we close one direction of the pipe
		(half-close) and still receive from the other.
	END
	run 'pipectl start --name six -- sort'
	run 'pipectl send six pear apple fig'
	run 'pipectl close six --send-only'
	run 'timeout 20 pipectl recv six --follow'
	expect apple fig pear
	run 'pipectl wait six --timeout 20s'
	expect 'exit 0'
	say <<-'END'
		All of that in one command, which exits as sort does:
	END
	run "printf 'pear\napple\nfig\n' | pipectl run --quiet -- sort"
	expect apple fig pear
}

program_7() {
	heading '7. The daemon is killed'
	say <<-'END'
		A program is in the middle of its work, with an answer that nobody has received. The daemon is killed. Its keeper, which is the parent of
		the program and holds a copy of every pipe, starts another, and that one goes on.
	END
	run "pipectl start --name seven -- sed -u 's/^/you said: /'"
	run 'pipectl send seven before'
	run_until 'received 1 message' 'pipectl inspect seven'
	expect_match ': running, pid ([0-9]+)'
	local pid=${BASH_REMATCH[1]}
	disown "$daemon"
	run "kill -9 \"\$(cat $dir/piped.sock.lock)\""
	run 'pipectl recv seven'
	expect 'you said: before'
	run 'pipectl send seven after'
	run 'pipectl recv seven'
	expect 'you said: after'
	say <<-'END'
		The program is the same process as before:
	END
	run 'pipectl inspect seven'
	expect_match ": running, pid $pid"
	run 'pipectl info'
	expect_match 'front epoch +2'
	daemon=$(cat "$dir/piped.sock.lock")
}

goodbye() {
	heading 'The end'
	say <<-'END'
		Sessions that have ended are kept for a while, with their exit status and unread output.
	END
	run 'pipectl ls'
	local name
	for name in one two three four five kept six seven; do
		expect_match "$name"
	done
	stop_daemon || fail "expected piped to end within $patience s of SIGTERM"
	daemon=
	grep -q 'msg="piped ended"' "$dir/log" || fail 'expected piped to end in order after SIGTERM'
	local left
	for left in "$dir/piped.sock" "$dir/piped.sock.keeper" "$dir/piped.sock.keeper.registry"; do
		! [ -e "$left" ] || fail "expected piped to remove $left"
	done
	say <<-'END'
		The daemon was told to end, has ended in order, and took its sessions with it. Everything came out as it should.
	END
}

start_daemon
program_1
program_2
program_3
program_4
program_5
program_6
program_7
goodbye
