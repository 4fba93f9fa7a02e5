package introspect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/issuer"
)

// ask makes one call.
func (r *Resolver) ask(ctx context.Context, token string) (*dpop.Token, error) {
	target, err := r.endpoint.url(ctx)
	if err != nil {
		return nil, fmt.Errorf("introspect: the introspection endpoint of %q is not known: %w", r.cfg.Issuer, err)
	}
	body, err := r.post(ctx, target, token)
	if err != nil {
		r.endpoint.doubted.Store(true)
		return nil, fmt.Errorf("introspect: %s: %w", issuer.Shown(target), err)
	}
	return r.cfg.read(body, r.cfg.Now())
}

// post sends the form of RFC 7662 §2.1 and returns the answer.
func (r *Resolver) post(ctx context.Context, target, token string) ([]byte, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	head, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return nil, quiet(err)
	}
	head.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	head.Header.Set("Accept", "application/json")
	if err := r.cfg.Authenticate(head, form); err != nil {
		return nil, fmt.Errorf("Config.Authenticate: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, quiet(err)
	}
	req.Header = head.Header
	// To ask twice changes nothing, so net/http may do it where a server closes a connection that was kept. An empty list is
	// how to tell it; nothing is sent.
	req.Header["Idempotency-Key"] = []string{}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, quiet(err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		body, err := issuer.ReadBody(res.Body)
		if err != nil {
			return nil, quiet(err)
		}
		return body, nil
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden: // 400 is what RFC 6749 §5.2 says of a wrong assertion
		return nil, fmt.Errorf("it answered %d: correct the credentials in Config.Authenticate, or let this client introspect", res.StatusCode)
	}
	return nil, fmt.Errorf("it answered %d", res.StatusCode)
}

// quiet returns err without what the server has sent, which many errors of net/http quote.
func quiet(err error) error {
	last := err
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e.(type) {
		case *net.OpError, *tls.CertificateVerificationError: // the address, and whose certificate it is
			return e
		}
		last = e
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return context.DeadlineExceeded
	}
	for _, plain := range []error{issuer.ErrTooLong, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, plain) {
			return plain
		}
	}
	return fmt.Errorf("what came is no answer in HTTP (%T)", last)
}

// rediscover is the least time between two reads of the metadata.
const rediscover = time.Second

// An endpoint is where to ask: given, or what the issuer's metadata say. After a call has failed they are read again, for
// the endpoint may have moved; as long as they cannot be, what they said before stands.
type endpoint struct {
	cfg     *Config
	reader  *issuer.Reader
	known   atomic.Pointer[string] // what they said
	doubted atomic.Bool

	lock chan struct{} // of the rest, and for one reader at a time; a channel, so that who waits for it can leave
	next time.Time     // when they may be read again
	err  error         // why they could not be
}

func (e *endpoint) url(ctx context.Context) (string, error) {
	if e.cfg.Endpoint != "" {
		return e.cfg.Endpoint, nil
	}
	known := e.known.Load()
	select {
	case e.lock <- struct{}{}:
	default: // another reads them
		if known != nil {
			return *known, nil
		}
		select {
		case e.lock <- struct{}{}:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	defer func() { <-e.lock }()
	known = e.known.Load()
	if (known == nil || e.doubted.Load()) && !time.Now().Before(e.next) {
		known = e.read(ctx)
	}
	if known == nil {
		return "", e.err
	}
	return *known, nil
}

// read reads the metadata, and returns what is known then. e.lock is taken.
func (e *endpoint) read(ctx context.Context) *string {
	at, err := e.reader.Discover(ctx, e.cfg.Issuer, "introspection_endpoint")
	e.err = err
	if err == nil {
		e.known.Store(&at)
		e.doubted.Store(false)
	}
	if ctx.Err() == nil { // else the time of this call was over, which says nothing of the next
		e.next = time.Now().Add(rediscover)
	}
	return e.known.Load()
}
