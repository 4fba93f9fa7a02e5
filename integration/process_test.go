//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process is a program that the run started and that goes on running: a Keycloak, an API.
type process struct {
	name  string
	dir   string // its own
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended; nil before it is started
}

// started has every process of the run, so that none outlives it.
var started struct {
	sync.Mutex
	processes []*process
}

// runDir has all that the run writes: the programs that it builds, and a directory for each process.
var runDir string

// dieWithRun makes a process end with the run, however that ends, where the system can do so.
var dieWithRun = func(*syscall.SysProcAttr) {}

// newProcess makes room for a program; its arguments may name files in dir. No other process of the run has its name.
func newProcess(name string) (*process, error) {
	p := &process{name: name, dir: filepath.Join(runDir, name)}
	return p, os.Mkdir(p.dir, 0o700)
}

// start runs cmd. What it prints goes to a file, not through a pipe: what a server logged before it answered is there
// when the answer is. A process that was killed may be started again, and its log goes on.
func (p *process) start(cmd *exec.Cmd) error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a group of its own: a script is stopped with its children
	dieWithRun(cmd.SysProcAttr)
	started.Lock()
	defer started.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // how it ended is for its log to say
		close(ended)
	}()
	started.processes = append(started.processes, p)
	return nil
}

// await returns when ready says yes. It fails, with the end of the log, when the process ends or the time is over first.
func (p *process) await(ready func() bool, limit time.Duration) error {
	deadline := time.After(limit)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready; its log ends with\n%s", p.name, p.logTail())
		case <-deadline:
			return fmt.Errorf("%s was not ready after %v; its log ends with\n%s", p.name, limit, p.logTail())
		case <-tick.C:
			if ready() {
				tick.Stop()
				return nil
			}
		}
	}
}

func (p *process) logFile() string { return filepath.Join(p.dir, "log") }

// log returns what the process printed, from an offset on.
func (p *process) log(offset int) ([]byte, error) {
	text, err := os.ReadFile(p.logFile())
	if err != nil {
		return nil, err
	}
	return text[min(offset, len(text)):], nil
}

func (p *process) logTail() string {
	text, err := p.log(0)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// halt stops the process without ending it: a server goes on to accept connections, and answers when resume is called.
func (p *process) halt(t *testing.T) { p.signal(t, syscall.SIGSTOP) }

// resume undoes halt. What clients sent to a server meanwhile is executed now, be they gone or not.
func (p *process) resume(t *testing.T) { p.signal(t, syscall.SIGCONT) }

func (p *process) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, signal); err != nil { // a script's children, too
		t.Fatalf("%s: %v", p.name, err)
	}
}

// runs reports whether the process was started and has not ended.
func (p *process) runs() bool {
	select {
	case <-p.ended:
		return false
	default:
		return p.ended != nil
	}
}

// kill ends the process and what it started at once, as a crash would. Nobody listens at its ports when kill returns.
func (p *process) kill() {
	if p.runs() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may end by itself meanwhile
		<-p.ended
	}
	started.Lock()
	defer started.Unlock()
	started.processes = slices.DeleteFunc(started.processes, func(other *process) bool { return other == p })
}

// endWith kills the process when the test is over, and shows the end of its log if the test failed.
func (p *process) endWith(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of %s ends with\n%s", p.name, p.logTail())
		}
		p.kill()
	})
}

// stop ends the process and what it started: politely first.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // it may have ended by itself
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGCONT) // a test may have halted it
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what is left of the group, if anything is
	<-p.ended
}

// stopAll ends every process that the run started.
func stopAll() {
	started.Lock()
	defer started.Unlock()
	for _, p := range started.processes {
		p.stop()
	}
}

// logTails returns how the logs of all processes end, for a run that failed.
func logTails() string {
	started.Lock()
	defer started.Unlock()
	var text bytes.Buffer
	for _, p := range started.processes {
		fmt.Fprintf(&text, "--- the log of %s ends with\n%s\n", p.name, p.logTail())
	}
	return text.String()
}

// serverPort returns a port of this machine at which nobody listens, nor at the port 10,000 above it: where servers form a
// cluster, they talk to each other there. Both lie below the ports that a system gives to outgoing connections. So when a
// server was killed nobody else gets its port, and a client that tries it meanwhile is not connected to itself.
func serverPort() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 100 {
		port := 10_000 + rand.IntN(12_000)
		if !given.ports[port] && isFree(port) && isFree(port+busOffset) {
			given.ports[port] = true
			return port, nil
		}
	}
	return 0, errors.New("of 100 ports between 10000 and 21999, none is free: end what listens there")
}

const busOffset = 10_000

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// given has the ports that serverPort returned, which are no other server's for the rest of the run.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

func isFree(port int) bool {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// need returns what an environment variable names, or says how to come by it.
func need(variable string) (string, error) {
	value := os.Getenv(variable)
	if value == "" {
		return "", fmt.Errorf("%s is not set: run `make integration`, which installs what these tests need, sets it and runs them", variable)
	}
	return value, nil
}
