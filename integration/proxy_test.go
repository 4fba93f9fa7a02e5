//go:build integration

package integration

import (
	"bufio"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A proxy stands between clients and a server of RESP, and does to their connections what networks do. Its address stays
// the same. A switch acts from when its method returns. The methods may be called by any number of goroutines.
//
// It knows which answer belongs to which command, because a server answers in order. So it cannot stand before what
// answers a command more than once, such as SUBSCRIBE. From PSYNC on, a connection is copied as it is: a replica may
// replicate through a proxy.
type proxy struct {
	addr string
	t    *testing.T
	wg   sync.WaitGroup

	mu        sync.Mutex
	listener  net.Listener // nil while connections are refused
	target    string
	links     map[*link]struct{}
	commands  map[string]int // by name: how many were passed on
	late      time.Duration  // how much later answers come
	losing    string         // the command whose answers are lost
	every     int            // and every how many of them; 0 is none
	answers   int            // to that command, since it was set
	lostCount int
	hole      bool
	closed    bool
}

// startProxy returns a proxy before the server at target, which ends with the test.
func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	port, err := serverPort()
	require.NoError(t, err)
	p := &proxy{addr: loopback(port), t: t, target: target, links: map[*link]struct{}{}, commands: map[string]int{}}
	p.refuse(false)
	t.Cleanup(func() {
		p.refuse(true)
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// delay makes every answer come so much later. Answers that wait do not wait for each other.
func (p *proxy) delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = d
}

// lose loses every n-th answer to a command, and none with n = 0. The server has executed the command. The client gets
// the answers before that one, and then its connection ends: nothing can be missing from the middle of a connection.
func (p *proxy) lose(n int, command string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.every, p.losing, p.answers = n, command, 0
}

// lost returns how many answers lose has lost.
func (p *proxy) lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lostCount
}

// passed returns how many commands of this name, in capitals, went to the server.
func (p *proxy) passed(command string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commands[command]
}

// connections returns how many connections of clients there are. One that a client has just made may not be among them yet.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// cut ends all connections at once. New ones are accepted.
func (p *proxy) cut() { p.cutLinks(func(*link) bool { return true }) }

func (p *proxy) cutLinks(which func(*link) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.links, func(l *link, _ struct{}) bool {
		if !which(l) {
			return false
		}
		l.gone = true
		l.client.Close()
		if l.server != nil {
			l.server.Close()
		}
		return true
	})
}

// refuse refuses new connections, or accepts them again. Those that exist go on.
func (p *proxy) refuse(on bool) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.listener != nil:
		p.listener.Close()
		p.listener = nil
	case !on && p.listener == nil:
		listener, err := net.Listen("tcp", p.addr)
		if err != nil {
			p.t.Errorf("the proxy cannot accept connections again: %v", err)
			return
		}
		p.listener = listener
		p.wg.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				p.wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
			}
		})
	}
}

// blackhole lets nothing through in either direction; connections are accepted and nobody answers. Switched off, it ends
// those that were in it: what clients sent meanwhile is never executed. To have that executed late, halt the server.
func (p *proxy) blackhole(on bool) {
	p.mu.Lock()
	p.hole = on
	if on {
		for l := range p.links {
			l.stuck = true
			// Every read and write that begins from now on fails, and ends a pump.
			_ = l.client.SetDeadline(time.Unix(1, 0))
			if l.server != nil {
				_ = l.server.SetDeadline(time.Unix(1, 0))
			}
		}
	}
	p.mu.Unlock()
	if !on {
		p.cutLinks(func(l *link) bool { return l.stuck })
	}
}

// retarget sends new connections to another server. Those that exist stay where they are until they are cut.
func (p *proxy) retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// A link is one client's connection and the one to the server that belongs to it.
type link struct {
	proxy   *proxy
	client  *net.TCPConn
	answers chan answer // on their way to the client

	// of proxy.mu
	server *net.TCPConn // nil until connected
	asked  []string     // the names of the commands that have no answer yet
	stuck  bool         // in a black hole: both connections stay open, and nobody serves them
	gone   bool         // cut
}

type answer struct {
	raw []byte
	due time.Time
}

// serve passes on what comes over a new connection, until it ends.
func (p *proxy) serve(client *net.TCPConn) {
	l := &link{proxy: p, client: client, answers: make(chan answer, 1024)}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		client.Close()
		return
	}
	p.links[l] = struct{}{}
	l.stuck = p.hole
	stuck, target := l.stuck, p.target
	p.mu.Unlock()
	if stuck {
		return
	}
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		l.end()
		return
	}
	p.mu.Lock()
	l.server = server.(*net.TCPConn)
	if l.gone {
		server.Close()
	}
	idle := l.gone || l.stuck
	p.mu.Unlock()
	if idle {
		return
	}
	p.wg.Go(l.fromServer)
	p.wg.Go(l.toClient)
	l.toServer()
}

// toServer passes on commands.
func (l *link) toServer() {
	r := bufio.NewReader(l.client)
	for {
		_, words, raw, err := readValue(r, nil)
		if err != nil || len(words) == 0 {
			break
		}
		name := strings.ToUpper(words[0])
		l.proxy.mu.Lock()
		l.proxy.commands[name]++
		l.asked = append(l.asked, name)
		l.proxy.mu.Unlock()
		if _, err := l.server.Write(raw); err != nil {
			break
		}
		if name == "PSYNC" {
			_, _ = io.Copy(l.server, r)
			break
		}
	}
	if l.isStuck() {
		return
	}
	l.server.Close()
	// Closing a connection while there is something to read in it would take back what was written to it.
	_, _ = io.Copy(io.Discard, l.client)
	l.end()
}

// fromServer takes answers.
func (l *link) fromServer() {
	defer close(l.answers)
	r := bufio.NewReader(l.server)
	for {
		kind, _, raw, err := readValue(r, nil)
		if err != nil {
			return
		}
		name, due, lost := l.judge(kind)
		if lost {
			return
		}
		l.answers <- answer{raw, due}
		if name == "PSYNC" {
			for {
				chunk := make([]byte, 16<<10)
				n, err := r.Read(chunk)
				if err != nil {
					return
				}
				l.answers <- answer{chunk[:n], due}
			}
		}
	}
}

// judge tells which command was answered, when the client may see that, and whether it never does.
func (l *link) judge(kind byte) (name string, due time.Time, lost bool) {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	if kind != '>' && len(l.asked) > 0 { // what a server pushes answers nothing
		name, l.asked = l.asked[0], l.asked[1:]
	}
	if p.late > 0 {
		due = time.Now().Add(p.late)
	}
	if p.every > 0 && name == p.losing {
		p.answers++
		lost = p.answers%p.every == 0
	}
	if lost {
		p.lostCount++
	}
	return name, due, lost
}

// toClient passes on answers when they are due. When there are no more, the client's connection ends.
func (l *link) toClient() {
	for a := range l.answers {
		if !a.due.IsZero() {
			time.Sleep(time.Until(a.due))
		}
		if _, err := l.client.Write(a.raw); err != nil && !l.isStuck() {
			l.server.Close() // and answers ends
		}
	}
	if !l.isStuck() {
		_ = l.client.CloseWrite() // toServer closes the rest
		l.server.Close()
	}
}

func (l *link) isStuck() bool {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	return l.stuck
}

// end closes the client's connection, unless it is in a black hole.
func (l *link) end() {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.stuck {
		l.client.Close()
		delete(p.links, l)
	}
}
