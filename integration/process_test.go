//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A process is a program that the run started and that goes on running: a Keycloak, an API.
type process struct {
	name  string
	dir   string // its own
	cmd   *exec.Cmd
	ended chan struct{}
}

// started has every process of the run, so that none outlives it.
var started struct {
	sync.Mutex
	processes []*process
}

// runDir has all that the run writes: the programs that it builds, and a directory for each process.
var runDir string

// newProcess makes room for a program; its arguments may name files in dir.
func newProcess(name string) (*process, error) {
	p := &process{name: name, dir: filepath.Join(runDir, name), ended: make(chan struct{})}
	return p, os.Mkdir(p.dir, 0o700)
}

// start runs cmd. What it prints goes to a file, not through a pipe: what a server logged before it answered is there
// when the answer is.
func (p *process) start(cmd *exec.Cmd) error {
	log, err := os.Create(p.logFile())
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a group of its own: a script is stopped with its children
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd = cmd
	go func() {
		_ = cmd.Wait() // how it ended is for its log to say
		close(p.ended)
	}()
	started.Lock()
	defer started.Unlock()
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

// stop ends the process and what it started: politely first.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // it may have ended by itself
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

// need returns what an environment variable names, or says how to come by it.
func need(variable string) (string, error) {
	value := os.Getenv(variable)
	if value == "" {
		return "", fmt.Errorf("%s is not set: run `make integration`, which installs what these tests need, sets it and runs them", variable)
	}
	return value, nil
}
