// Package dpophttp protects net/http handlers with DPoP (RFC 9449). It tells a [dpop.Verifier] what a request's target
// URI is, and does nothing else: what the Verifier refuses never reaches the handler.
package dpophttp

import (
	"context"
	"errors"
	"net/http"
	"net/netip"

	"github.com/senderbound/senderbound/dpop"
)

// A Config says under which URIs clients address this server. That is not taken from the request, because a proof is only
// worth what the URI it is compared with is worth: a name that a client or a proxy can make up is worth nothing.
type Config struct {
	// Origins are what clients address: scheme, host, and port if it is not the default, such as
	// https://api.example.com. With one, that is it, whatever the Host field says. With several, the request's Host
	// selects; a request for none of them is refused.
	Origins []string

	// PathPrefix is the beginning of the path that a proxy strips before the request arrives here, such as /v1. With one,
	// a path with dot segments is refused.
	PathPrefix string

	// TrustedProxies are the addresses of proxies whose forwarding fields, of the one family that Forwarded names, are
	// read instead of Host and the connection's own scheme. They too only select among Origins. From any other address
	// these fields mean nothing.
	TrustedProxies []netip.Prefix
	Forwarded      Header

	// ClientCert reads the client's certificate, for tokens that are bound to one (RFC 8705), from the field Client-Cert (RFC 9440)
	// of requests that come from TrustedProxies, which must replace what a client sends under that name. The certificate
	// of such a connection is the proxy's own and does not count. From any other address the field means nothing.
	ClientCert bool

	// AllowPreflight lets CORS preflights through to the handler: OPTIONS requests with Origin and
	// Access-Control-Request-Method and without credentials. It is for a CORS middleware that stands inside of this one, and
	// the handler then finds no Result. One that stands outside, which is better, needs nothing here.
	//
	// What stands inside does not see refusals, so that scripts of other origins can read neither a challenge nor the nonce
	// beside it. And if it is told to expose fields, it may write over those that are exposed here, as rs/cors does with its
	// ExposedHeaders: name DPoP-Nonce, WWW-Authenticate and Date there, too. See examples/cors.
	AllowPreflight bool

	// OnError answers a refused request; the default is dpop.WriteError. It must not call the protected handler.
	OnError func(http.ResponseWriter, *http.Request, error)
}

// New returns a middleware that lets a request pass if v accepts it. The handler finds the [dpop.Result] in the request's
// context. Its nonce, if there is one, is sent with the answer, which no cache may keep then, whatever the handler sets.
//
// The error names every mistake in cfg. The middleware must stand outside of what rewrites the request's method or
// RequestURI; URL may be rewritten before it, as http.StripPrefix does.
func New(v dpop.RequestVerifier, cfg Config) (func(http.Handler) http.Handler, error) {
	targets, err := newTargets(cfg)
	if v == nil {
		err = errors.Join(errors.New("dpophttp: the verifier is nil: pass what dpop.NewVerifier returned"), err)
	}
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header["Origin"] != nil {
				if cfg.AllowPreflight && isPreflight(r) {
					next.ServeHTTP(w, r)
					return
				}
				w.Header().Add("Access-Control-Expose-Headers", exposed)
			}
			ctx := r.Context()
			if cfg.OnError != nil {
				ctx = context.WithValue(ctx, onErrorKey{}, cfg.OnError)
			}
			request := dpop.RequestFromHTTP(r, targets.uri(r))
			if len(cfg.TrustedProxies) > 0 && targets.isTrusted(r.RemoteAddr) {
				request.ClientCertificate = nil // which is the proxy's own
				if cfg.ClientCert {
					request.ClientCertificate = clientCert(r.Header["Client-Cert"])
				}
			}
			result, err := v.Verify(ctx, request)
			if err != nil {
				refuse(w, r.WithContext(ctx), err)
				return
			}
			r = r.WithContext(dpop.NewContext(ctx, result))
			if result.Nonce == "" {
				next.ServeHTTP(w, r)
				return
			}
			told := &nonceWriter{ResponseWriter: w, nonce: result.Nonce}
			next.ServeHTTP(told, r)
			told.set() // where the handler wrote nothing
		})
	}, nil
}

// exposed are the fields of an answer that a client in a browser must be able to read: what to do about a refusal, the next
// nonce, and this server's time (RFC 9449 §7.1 and §8). Whether its origin may read anything is a CORS middleware's decision.
const exposed = "DPoP-Nonce, WWW-Authenticate, Date"

// isPreflight reports whether a browser asks whether it may send a request, which it does without credentials.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header["Access-Control-Request-Method"] != nil &&
		r.Header["Authorization"] == nil && r.Header["Dpop"] == nil
}

// RequireScope returns a middleware, to stand inside the one that New returned, that lets a request pass if its token has
// each of scopes. Else it answers 403 (RFC 6750 §3.1), through the same OnError. Where no Verifier has accepted the
// request before, it answers 500.
func RequireScope(scopes ...string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			result, ok := dpop.FromContext(r.Context())
			if !ok { // whoever tries it out sees why
				http.Error(w, "dpophttp: RequireScope stands outside of the middleware that New returned", http.StatusInternalServerError)
				return
			}
			if err := result.Require(scopes...); err != nil {
				refuse(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// onErrorKey carries Config.OnError to RequireScope.
type onErrorKey struct{}

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if onError, ok := r.Context().Value(onErrorKey{}).(func(http.ResponseWriter, *http.Request, error)); ok {
		onError(w, r, err)
		return
	}
	dpop.WriteError(w, err)
}
