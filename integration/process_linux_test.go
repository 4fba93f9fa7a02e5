//go:build integration

package integration

import "syscall"

// A run that crashes or is killed has no time to end what it started; the system does that. It does not do so for what a
// script started.
func init() {
	dieWithRun = func(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
}
