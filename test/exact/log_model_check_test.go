package exact

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// sequence makes operations of which each begins when the one before has ended.
func sequence(inputs ...any) []porcupine.Operation {
	var ops []porcupine.Operation
	for i, input := range inputs {
		ops = append(ops, porcupine.Operation{ClientId: i, Input: input, Call: int64(10 * i), Return: int64(10*i + 5)})
	}
	return ops
}

func recv(index, writer, number int) opRecv {
	return opRecv{index: index, token: messageToken(writer, number)}
}

func TestLogModelAcceptsWhatIsRightAndRefusesWhatIsNot(t *testing.T) {
	send := func(stream, writer, number int, o outcome) opSend {
		return opSend{writer: writer, stream: stream, number: number, outcome: o}
	}
	one, two := opOpen{writer: 1, stream: 1, epoch: 1, expected: 1}, opOpen{writer: 2, stream: 2, epoch: 2, expected: 1}
	for _, c := range []struct {
		name string
		ops  []any
		want bool
	}{
		{"one message", []any{one, send(1, 1, 1, acknowledged), recv(0, 1, 1), opClose{}, opRecv{index: 1, end: true}}, true},
		{"a cut message that came", []any{one, send(1, 1, 1, unknown), recv(0, 1, 1)}, true},
		{"a cut message that did not come", []any{one, send(1, 1, 1, unknown), opClose{}, opRecv{index: 0, end: true}}, true},
		{"a fenced message that was faster", []any{one, send(1, 1, 1, acknowledged), two, send(2, 2, 1, acknowledged), recv(1, 2, 1)}, true},
		{"an acknowledged message that did not come", []any{one, send(1, 1, 1, acknowledged), opClose{}, opRecv{index: 0, end: true}}, false},
		{"a message that came twice", []any{one, send(1, 1, 1, acknowledged), recv(0, 1, 1), recv(1, 1, 1)}, false},
		{"a message out of nowhere", []any{one, recv(0, 1, 1), send(1, 1, 1, acknowledged)}, false},
		{"messages in the wrong order", []any{one, send(1, 1, 1, acknowledged), send(1, 1, 2, acknowledged), recv(0, 1, 2), recv(1, 1, 1)}, false},
		{"a message of one who has lost the lease", []any{one, two, send(1, 1, 1, acknowledged)}, false},
		{"a refused message of one who has the lease", []any{one, send(1, 1, 1, fenced), opClose{}, opRecv{index: 0, end: true}}, false},
		{"two holders of one epoch", []any{one, opOpen{writer: 2, stream: 2, epoch: 1, expected: 1}}, false},
		{"a wrong expectation", []any{one, send(1, 1, 1, acknowledged), opOpen{writer: 1, stream: 2, epoch: 1, expected: 1}}, false},
		{"a ghost of an older stream", []any{one, opOpen{writer: 1, stream: 2, epoch: 1, expected: 1}, send(1, 1, 1, unknown), recv(0, 1, 1)}, false},
		{"an opening that lost the lease before it was answered", []any{one, opOpen{writer: 2, stream: 2, lost: true}, send(1, 1, 1, fenced)}, true},
		{"a message after such an opening of another", []any{one, opOpen{writer: 2, stream: 2, lost: true}, send(1, 1, 1, acknowledged)}, false},
		{"a message after the close", []any{one, opClose{}, send(1, 1, 1, acknowledged)}, false},
		{"an end before the close", []any{one, opRecv{index: 0, end: true}}, false},
		{"an end in the middle", []any{one, send(1, 1, 1, acknowledged), opClose{}, opRecv{index: 0, end: true}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := porcupine.CheckOperations(logModel, sequence(c.ops...)); got != c.want {
				t.Errorf("accepted: %v", got)
			}
		})
	}
}
