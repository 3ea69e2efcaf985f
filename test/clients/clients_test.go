package clients

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/piped-dev/piped/test/daemon"
)

// patience bounds programs that compile or fetch something first.
const patience = 5 * time.Minute

// debianPython is the interpreter to which Debian's packages for gRPC belong; another python3 in PATH does not have them.
const debianPython = "/usr/bin/python3"

func TestMain(m *testing.M) { daemon.Main(m) }

func TestPythonClient(t *testing.T) {
	stubs := t.TempDir()
	protos, err := filepath.Glob("../../proto/piped/v1/*.proto")
	if err != nil || len(protos) == 0 {
		t.Fatalf("the contract is not found: %v", err)
	}
	args := []string{"-I", "../../proto", "-I", ".", "--python_out=" + stubs, "--grpc_python_out=" + stubs,
		"--plugin=protoc-gen-grpc_python=" + program(t, "grpc_python_plugin"), "status.proto"}
	run(t, command(t, program(t, "protoc"), append(args, protos...)...))

	d := daemon.Start(t)
	cmd := command(t, program(t, debianPython), "-B", "python/client.py", d.Addr)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PYTHONPATH=" + stubs}
	t.Log(run(t, cmd))
}

func TestNodeClient(t *testing.T) {
	modules := nodeModules(t)
	script, err := os.ReadFile("node/client.js")
	if err != nil {
		t.Fatal(err)
	}
	// Node looks for modules beside the script.
	copied := filepath.Join(filepath.Dir(modules), "client.js")
	if err := os.WriteFile(copied, script, 0o600); err != nil {
		t.Fatal(err)
	}

	d := daemon.Start(t)
	cmd := command(t, program(t, "node"), copied, d.Addr, "../../proto", "status.proto")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	t.Log(run(t, cmd))
}

// nodeModules installs what the Node client needs, as its lock file says, and returns the path of node_modules.
func nodeModules(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json"} {
		content, err := os.ReadFile(filepath.Join("node", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := command(t, program(t, "npm"), "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-progress")
	cmd.Dir = dir
	run(t, cmd)
	return filepath.Join(dir, "node_modules")
}

// The lock file is for everybody: where a package was fetched from is nobody else's business.
func TestLockFileNamesNoRegistry(t *testing.T) {
	content, err := os.ReadFile("node/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), `"resolved"`) {
		t.Error("node/package-lock.json says where packages were fetched from: npm install --package-lock-only --omit-lockfile-registry-resolved")
	}
}

// program returns the path of a program, or fails the test.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: test/setup/install-test-deps.sh installs it", err)
	}
	return path
}

// command returns a program that ends with the test at the latest.
func command(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, args...)
}

// run returns the output of a program that must exit with 0.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, output)
	}
	return string(output)
}

// grpcurl returns the directory of the grpcurl that tools/grpcurl.mod pins.
func grpcurl(t *testing.T) string {
	t.Helper()
	tool := func(args ...string) string {
		cmd := command(t, program(t, "go"), append([]string{"tool", "-modfile=tools/grpcurl.mod"}, args...)...)
		cmd.Dir = "../.."
		output, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), exit, exit.Stderr)
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(output))
	}
	// Run once, so that it is built; -n says where it is then.
	tool("grpcurl", "-version")
	path := tool("-n", "grpcurl")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("go tool names no program: %v", err)
	}
	return filepath.Dir(path)
}
