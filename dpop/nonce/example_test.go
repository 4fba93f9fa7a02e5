package nonce_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/replay/memstore"
)

// Nonces for payments, and none for reading: two Verifiers that share all but the nonces. Each asks always or never.
func Example_perRoute() {
	key := dpoptest.NewKey()
	used, err := memstore.New(memstore.Config{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = used.Close() }()
	secret := bytes.Repeat([]byte("random "), 5) // from where your other secrets are, the same for all processes
	nonces, err := nonce.New(nonce.Config{}, secret)
	if err != nil {
		panic(err)
	}

	config := dpop.Config{
		Replay: used,
		// A resolver that knows one token. Package atjwt validates JWTs instead.
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
			return &dpop.Token{Confirmation: dpop.Confirmation{JKT: key.JKT()}}, nil
		}),
	}
	reading := protect(config)
	config.Nonces = nonces
	paying := protect(config)

	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") })
	mux := http.NewServeMux()
	mux.Handle("GET /accounts", reading(ok))
	mux.Handle("POST /payments", paying(ok))

	answer := send(mux, key, "GET", "/accounts", "")
	fmt.Println("GET /accounts:", answer.Code, answer.Body)
	answer = send(mux, key, "POST", "/payments", "")
	fmt.Println("POST /payments:", answer.Code, answer.Body)
	answer = send(mux, key, "POST", "/payments", answer.Header().Get("DPoP-Nonce"))
	fmt.Println("POST /payments:", answer.Code, answer.Body)
	// Output:
	// GET /accounts: 200 done
	// POST /payments: 401 {"error":"use_dpop_nonce","error_description":"The DPoP proof must carry the nonce of the DPoP-Nonce header field"}
	//
	// POST /payments: 200 done
}

// protect returns the middleware of an API behind a Verifier of config.
func protect(config dpop.Config) func(http.Handler) http.Handler {
	verifier, err := dpop.NewVerifier(config)
	if err != nil {
		panic(err)
	}
	middleware, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	if err != nil {
		panic(err)
	}
	return middleware
}

// send sends a request with a new proof, as a client does.
func send(api http.Handler, key *dpopclient.Key, method, path, nonce string) *httptest.ResponseRecorder {
	proof := dpoptest.Proof(key, dpopclient.Claims{
		Method: method, URI: "https://api.example.com" + path, AccessToken: "a-token", Nonce: nonce,
	})
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Authorization", "DPoP a-token")
	r.Header.Set("DPoP", proof)
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}
