package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

// New connects to the servers and looks at them. It is an error, within about Config.Timeout for each address, if they
// cannot be reached or cannot be trusted with proofs; it says which address and what to change. The error names every
// mistake in cfg at once.
func New(ctx context.Context, cfg Config) (*Store, error) {
	floor, err := cfg.complete(true)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := newStore(cfg, floor)
	c := &servers{store: s, conns: make(map[*conn]struct{}), start: time.Now()}
	s.client = c
	stop := context.AfterFunc(ctx, s.close)
	c.rueidis, err = rueidis.NewClient(c.options())
	if err == nil && cfg.Cluster {
		err = c.meet(ctx)
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		s.close()
		c.close()
		return nil, fmt.Errorf("redisstore: %w", c.explain(err))
	}
	s.watch()
	return s, nil
}

// meet makes a connection to every node of a Cluster that can be reached: so each master is looked at before the first proof
// is recorded, and Ready speaks for all. It is an error if one cannot be trusted with proofs.
func (c *servers) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.store.cfg.Timeout)
	defer cancel()
	if c.rueidis.Mode() != rueidis.ClientModeCluster { // as the client does with a Cluster that tells nothing of its nodes
		return errors.New("the server does not answer CLUSTER SLOTS or CLUSTER SHARDS: let its user (ACL) do that")
	}
	nodes := c.rueidis.Nodes()
	met := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() { met <- node.Do(ctx, node.B().Ping().Build()).Error() }()
	}
	for range nodes {
		err := <-met
		if refused := (refusal{}); errors.As(err, &refused) && !errors.Is(err, errReplica) {
			return err
		}
	}
	return nil
}

// explain says what to change where the client's own words do not.
func (c *servers) explain(err error) error {
	cfg := &c.store.cfg
	addresses := strings.Join(cfg.Addresses, ", ")
	switch err = c.answer(err); {
	case strings.HasPrefix(err.Error(), "NOPERM"):
		return fmt.Errorf("the server's user may not run all that is needed: let it (ACL), as the package documentation says (%w)", err)
	case strings.Contains(err.Error(), "No such master"):
		return fmt.Errorf("the Sentinels at %s know no primary %q: correct Config.SentinelMaster", addresses, cfg.SentinelMaster)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer from %s within %v: correct Config.Addresses, or set a longer Config.Timeout (%w)", addresses,
			cfg.Timeout, err)
	case isUnreachable(err):
		return fmt.Errorf("%w: start the server, or correct Config.Addresses", err)
	default:
		return err
	}
}

// servers is a client that connects by itself.
type servers struct {
	store   *Store
	rueidis rueidis.Client
	start   time.Time
	settled atomic.Int64 // when every connection is made, or was given up, as far as is known; counted from start

	mu    sync.Mutex
	conns map[*conn]struct{} // that are open
}

func (c *servers) options() rueidis.ClientOption {
	cfg := &c.store.cfg
	return rueidis.ClientOption{
		InitAddress: cfg.Addresses,
		Username:    cfg.Username,
		Password:    cfg.Password,
		TLSConfig:   cfg.TLS,
		Sentinel: rueidis.SentinelOption{
			MasterSet: cfg.SentinelMaster, Username: cfg.SentinelUsername, Password: cfg.SentinelPassword,
			TLSConfig: cfg.TLS,
			Dialer:    net.Dialer{Timeout: cfg.Timeout, ControlContext: sentinelDialer},
			// A primary that is deposed closes its connections; this is for one that cannot.
			TopologyRefreshInterval: 5 * time.Second,
		},
		Dialer:           net.Dialer{Timeout: cfg.Timeout},
		ConnWriteTimeout: cfg.Timeout,
		DialCtxFn:        c.dial,

		ForceSingleClient: !cfg.Cluster && cfg.SentinelMaster == "",
		// Nothing is read twice, and Infinispan refuses to track clients.
		DisableCache: true,
		// Redis 7.0 does not know CLIENT SETINFO, nor a permission of that name.
		ClientSetInfo: rueidis.DisableClientSetInfo,
		// It is repeated here, with the nonce that makes that safe.
		DisableRetry: true,
		// One connection to a server, over which concurrent calls go together. To look at it is to look at all.
		PipelineMultiplex:   -1,
		ReadBufferEachConn:  1 << 15,
		WriteBufferEachConn: 1 << 15,
	}
}

// sentinelDialer does nothing; a dialer that has it is one for Sentinels, to which no proofs go.
func sentinelDialer(context.Context, string, string, syscall.RawConn) error { return nil }

// dial returns a connection to a server that has been looked at over it. The floor has risen, if it must, before a command
// can be sent there.
func (c *servers) dial(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	c.unsettle()
	ctx, cancel := context.WithTimeout(ctx, c.store.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(c.store.closed, cancel)()
	addresses := []string{address}
	if c.store.cfg.Infinispan {
		addresses = c.store.cfg.Addresses
	}
	var failed []error
	for i, a := range addresses {
		conn := &conn{address: address, servers: c}
		err := conn.connect(ctx, a, len(addresses)-i, dialer, config)
		if err == nil {
			return conn, nil
		}
		failed = append(failed, err)
	}
	if c.store.closed.Err() != nil {
		return nil, rueidis.ErrClosing // at any other error the client may try again, even now
	}
	return nil, errors.Join(failed...)
}

// connect connects to an address and looks at what is there. It leaves as much time for each of the others that are to be
// tried.
func (c *conn) connect(ctx context.Context, address string, tries int, dialer *net.Dialer, config *tls.Config) (err error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(tries))
	defer cancel()
	if config != nil {
		c.Conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
	} else {
		c.Conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	switch {
	case err != nil && config != nil && !isUnreachable(err):
		return fmt.Errorf("%s: no TLS: %w: does the server expect it, and do the certificates fit?", address, err)
	case err != nil:
		return err
	}
	s := c.servers
	if err := c.greet(ctx, dialer.ControlContext != nil); err != nil {
		c.Conn.Close()
		return fmt.Errorf("%s: %w", c.RemoteAddr(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store.closed.Err() != nil {
		c.Conn.Close()
		return errClosed
	}
	s.conns[c] = struct{}{}
	return nil
}

func (c *conn) greet(ctx context.Context, isSentinel bool) (err error) {
	defer context.AfterFunc(ctx, func() { c.Conn.Close() })()
	guard, send := &c.servers.store.guard, over(c.Conn)
	if isSentinel {
		err = guard.helloSentinel(ctx, send)
	} else if c.clustered, err = guard.hello(ctx, send); err == nil {
		err = guard.look(ctx, send, c.clustered)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err() // which is why the connection was closed
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return errors.New("the server closed the connection at once: does it expect TLS (rediss://)?")
	default:
		return err
	}
}

func (c *servers) setNX(ctx context.Context, key, value string, life time.Duration, get bool) (string, bool, error) {
	set := c.rueidis.B().Set().Key(key).Value(value).Nx()
	if get {
		return c.do(ctx, set.Get().PxMilliseconds(life.Milliseconds()).Build(), key, value)
	}
	ok, _, err := c.do(ctx, set.PxMilliseconds(life.Milliseconds()).Build(), key, value)
	return "", ok != "OK", err
}

func (c *servers) get(ctx context.Context, key string) (string, error) {
	value, _, err := c.do(ctx, c.rueidis.B().Get().Key(key).Build(), key)
	return value, err
}

// answer returns what may be shown of an error: what a server says is made a serverError.
func (c *servers) answer(err error, secrets ...string) error {
	if e := (*rueidis.RedisError)(nil); errors.As(err, &e) {
		return newServerError(e.Error(), append(secrets, c.store.cfg.Password, c.store.cfg.SentinelPassword)...)
	}
	return err
}

// do returns the reply to a command. An error shows none of secrets.
func (c *servers) do(ctx context.Context, cmd rueidis.Completed, secrets ...string) (text string, ok bool, err error) {
	if text, ok, err = c.send(ctx, cmd); err != nil {
		c.failed(ctx)
		err = c.answer(err, secrets...)
	}
	return text, ok, err
}

// send returns the reply to a command, or an error when ctx ends. Whoever needs a connection that another caller is making
// is kept waiting by the client for as long as that one has time, so send does not wait for the client then.
func (c *servers) send(ctx context.Context, cmd rueidis.Completed) (string, bool, error) {
	if time.Since(c.start) > time.Duration(c.settled.Load()) {
		return nullable(c.rueidis.Do(ctx, cmd))
	}
	replies := make(chan rueidis.RedisResult, 1)
	go func() { replies <- c.rueidis.Do(ctx, cmd) }()
	select {
	case reply := <-replies:
		return nullable(reply)
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
}

// unsettle says that a connection is made, or will have to be: Timeout is for looking at the server, and as long is for what
// the client asks it.
func (c *servers) unsettle() {
	c.settled.Store(int64(time.Since(c.start) + 2*c.store.cfg.Timeout))
}

// nullable returns a text, and whether there is one.
func nullable(reply rueidis.RedisResult) (string, bool, error) {
	value, err := reply.ToString()
	if rueidis.IsRedisNil(err) {
		return "", false, nil
	}
	return value, err == nil, err
}

func (c *servers) granted(context.Context) error { return nil }

// failed ends the connections over which nothing has come for as long as a call may take. What waits there fails at once,
// and the next call finds out whether there is anyone.
func (c *servers) failed(ctx context.Context) {
	if ctx.Err() == nil {
		return
	}
	now := time.Since(c.start)
	c.disconnect(func(conn *conn) bool {
		since := time.Duration(conn.waiting.Load())
		return since != 0 && now-since >= c.store.cfg.Timeout*3/4
	})
}

// disconnect ends connections; the client makes new ones when it needs them.
func (c *servers) disconnect(which func(*conn) bool) {
	var ended []*conn
	c.mu.Lock()
	for conn := range c.conns {
		if which(conn) {
			ended = append(ended, conn)
		}
	}
	c.mu.Unlock()
	for _, conn := range ended {
		conn.Close()
	}
}

// look looks at every server to which there is a connection, over that connection, and ends it if that fails: then a
// new one will have to pass, or be refused with the reason.
func (c *servers) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.store.cfg.Timeout)
	defer cancel()
	clustered := make(map[string]bool)
	c.mu.Lock()
	for conn := range c.conns {
		clustered[conn.address] = conn.clustered
	}
	c.mu.Unlock()
	var wait sync.WaitGroup
	defer wait.Wait()
	for address, node := range c.rueidis.Nodes() {
		if is, ok := clustered[address]; ok {
			wait.Go(func() {
				if err := c.store.guard.look(ctx, through(node), is); err != nil {
					c.disconnect(func(conn *conn) bool { return conn.address == address })
				}
			})
		}
	}
}

// through returns an exchange with the server of a node.
func through(node rueidis.Client) exchange {
	return func(ctx context.Context, commands ...[]string) ([]any, error) {
		var multi []rueidis.Completed
		for _, args := range commands {
			multi = append(multi, node.B().Arbitrary(args...).Build())
		}
		replies := make([]any, len(commands))
		for i, reply := range node.DoMulti(ctx, multi...) {
			value, ok, err := nullable(reply)
			if e, is := rueidis.IsRedisErr(err); is {
				replies[i] = newServerError(e.Error())
			} else if err != nil {
				return nil, err
			} else if ok {
				replies[i] = value
			}
		}
		return replies, nil
	}
}

func (c *servers) close() {
	c.disconnect(func(*conn) bool { return true })
	if c.rueidis != nil {
		c.rueidis.Close()
	}
}

// A conn is a connection to a server that has been looked at.
type conn struct {
	net.Conn
	servers   *servers
	address   string // as the client knows it
	clustered bool
	waiting   atomic.Int64 // since when something was sent that nothing has come after, counted from servers.start; 0: not
}

// Write lets others run when it is done, so that the commands of all who are about to send one go with the next write. Else
// each has a write of its own, which is what costs most about it.
func (c *conn) Write(p []byte) (int, error) {
	c.waiting.CompareAndSwap(0, max(1, int64(time.Since(c.servers.start))))
	n, err := c.Conn.Write(p)
	runtime.Gosched()
	return n, err
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.waiting.Store(0)
	}
	return n, err
}

func (c *conn) Close() error {
	c.servers.mu.Lock()
	delete(c.servers.conns, c)
	c.servers.mu.Unlock()
	c.servers.unsettle() // before the client knows that there is no connection
	return c.Conn.Close()
}
