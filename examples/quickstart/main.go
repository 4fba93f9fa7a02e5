// Quickstart shows what sender-constrained tokens change. It starts an issuer, a protected API and a client on loopback,
// sends ten requests, most of them with what a thief could have got hold of, and prints what became of each, next to what
// an API that takes bearer tokens would have done with the same request.
//
//	go run ./examples/quickstart
//
// It exits with status 1 if any verdict is not as promised.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "quickstart: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	api, err := newAPI(ctx, issuer.URL)
	if err != nil {
		return err
	}
	defer api.close()

	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "REQUEST\tVERDICT\tREASON, KNOWN TO THE SERVER ONLY\tA BEARER API")
	wrong := 0
	for _, r := range requests(issuer, api.protected.URL) {
		status, reason, err := api.send(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		bearer, err := api.sendToBearer(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		mark := ""
		if reason != r.want {
			wrong++
			mark = fmt.Sprintf(" (promised: %s)", verdict(r.want))
		}
		fmt.Fprintf(table, "%s\t%d %s%s\t%s\t%s\n", r.name, status, verdict(reason), mark, reason, served(bearer))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d verdicts are not as promised", wrong)
	}
	return nil
}

func verdict(reason dpop.Reason) string {
	if reason == "" {
		return "accepted"
	}
	return "refused"
}

func served(status int) string {
	if status == http.StatusOK {
		return "would have served it"
	}
	return fmt.Sprintf("would have refused it (%d)", status)
}

// A request is one to be sent, with the reason for which it must be refused, or "" if it must be accepted.
type request struct {
	name          string
	want          dpop.Reason
	method, path  string
	authorization string
	proofs        []string
}

// requests returns the ten. The client asks for an order, and what it sends is stolen on the way.
func requests(issuer *dpoptest.Issuer, api string) []request {
	const path = "/orders/17"
	client, thief := dpoptest.NewKey(), dpoptest.NewKey()
	token := issuer.Token(audience, client.JKT(), nil)
	other := issuer.Token(audience, client.JKT(), nil)
	get := dpopclient.Claims{Method: http.MethodGet, URI: api + path, AccessToken: token}
	elsewhere := get
	elsewhere.URI = api + "/orders/18"
	otherToken := get
	otherToken.AccessToken = other
	first := dpoptest.Proof(client, get)
	stale := dpoptest.Forge(client, get, func(_, claims map[string]any) {
		claims["iat"] = time.Now().Add(-2 * time.Minute).Unix()
	})
	proof := func(c dpopclient.Claims) []string { return []string{dpoptest.Proof(client, c)} }

	return []request{
		{"good", "", http.MethodGet, path, "DPoP " + token, []string{first}},
		{"the same again, replayed", dpop.ErrProofReplayed, http.MethodGet, path, "DPoP " + token, []string{first}},
		{"stolen token, the thief's key", dpop.ErrKeyMismatch, http.MethodGet, path, "DPoP " + token, []string{dpoptest.Proof(thief, get)}},
		{"proof for another method", dpop.ErrMethodMismatch, http.MethodDelete, path, "DPoP " + token, proof(get)},
		{"proof for another URL", dpop.ErrURIMismatch, http.MethodGet, path, "DPoP " + token, proof(elsewhere)},
		{"stolen token as Bearer", dpop.ErrBearerNotAllowed, http.MethodGet, path, "Bearer " + token, nil},
		{"proof kept for two minutes", dpop.ErrProofTooOld, http.MethodGet, path, "DPoP " + token, []string{stale}},
		{"two proofs", dpop.ErrProofMultiple, http.MethodGet, path, "DPoP " + token, append(proof(get), proof(get)...)},
		{"proof for another token", dpop.ErrTokenHashMismatch, http.MethodGet, path, "DPoP " + token, proof(otherToken)},
		{"good again", "", http.MethodGet, path, "DPoP " + token, proof(get)},
	}
}

const audience = "https://api.example.com"

// An api is a resource, once protected and once as it would be with bearer tokens.
type api struct {
	protected, bearer *httptest.Server
	reasons           chan dpop.Reason
	store             *memstore.Store
}

func newAPI(ctx context.Context, issuer string) (*api, error) {
	resolver, err := atjwt.NewResolver(ctx, atjwt.Config{Issuer: issuer, Audience: audience})
	if err != nil {
		return nil, err
	}
	store, err := memstore.New(memstore.Config{})
	if err != nil {
		return nil, err
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	if err != nil {
		return nil, err
	}
	a := &api{reasons: make(chan dpop.Reason, 1), store: store}
	orders := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "order 17") })

	// The origin is known once the server listens, so the handler is set after it.
	a.protected = httptest.NewUnstartedServer(nil)
	protect, err := dpophttp.New(verifier, dpophttp.Config{
		Origins: []string{"http://" + a.protected.Listener.Addr().String()},
		OnError: a.refuse,
	})
	if err != nil {
		return nil, err
	}
	a.protected.Config.Handler = protect(orders)
	a.protected.Start()
	a.bearer = httptest.NewServer(bearer(resolver, orders))
	return a, nil
}

func (a *api) close() {
	a.protected.Close()
	a.bearer.Close()
	_ = a.store.Close()
}

// refuse answers as usual and tells the table why.
func (a *api) refuse(w http.ResponseWriter, _ *http.Request, err error) {
	var refusal *dpop.Error
	if errors.As(err, &refusal) {
		a.reasons <- refusal.Reason
	}
	dpop.WriteError(w, err)
}

// bearer protects a handler the way bearer tokens do: whoever holds the token may come in.
func bearer(resolver dpop.TokenResolver, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if _, err := resolver.ResolveToken(r.Context(), token); err != nil {
			http.Error(w, "invalid token", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// send returns the status, and the reason if the request was refused.
func (a *api) send(ctx context.Context, r request) (int, dpop.Reason, error) {
	status, err := do(ctx, a.protected.URL, r)
	if err != nil || status == http.StatusOK {
		return status, "", err
	}
	return status, <-a.reasons, nil
}

func (a *api) sendToBearer(ctx context.Context, r request) (int, error) {
	return do(ctx, a.bearer.URL, r)
}

func do(ctx context.Context, base string, r request) (int, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, base+r.path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", r.authorization)
	req.Header["DPoP"] = r.proofs
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
