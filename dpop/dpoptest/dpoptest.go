// Package dpoptest helps to test what DPoP protects: an issuer of access tokens on loopback, proofs that are right and
// proofs that are wrong in one way, and contexts for handlers.
//
// As in net/http/httptest, what cannot fail in a test that is set up rightly panics. Nothing here is for production.
package dpoptest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/jkt"
)

// NewKey returns a new client key on P-256.
func NewKey() *dpopclient.Key { return must(dpopclient.GenerateKey()) }

// Proof returns a proof by key that is right for c.
func Proof(key *dpopclient.Key, c dpopclient.Claims) string { return must(key.Proof(c)) }

// Forge returns a proof by key that is right for c but for what change did to its header and claims, which are as
// encoding/json decodes them. It is signed after the change.
func Forge(key *dpopclient.Key, c dpopclient.Claims, change func(header, claims map[string]any)) string {
	segments := strings.Split(Proof(key, c), ".")
	header, claims := decode(segments[0]), decode(segments[1])
	change(header, claims)
	return ForgeJSON(key, string(must(json.Marshal(header))), string(must(json.Marshal(claims))))
}

// ForgeJSON returns a proof by key of any header and claims, well-formed or not.
func ForgeJSON(key *dpopclient.Key, header, claims string) string {
	return sign(key.Signer(), jwa.SignatureAlgorithm(key.Algorithm()), header, claims)
}

func decode(segment string) (object map[string]any) {
	check(json.Unmarshal(must(base64.RawURLEncoding.DecodeString(segment)), &object))
	return object
}

func sign(signer crypto.Signer, alg jwa.SignatureAlgorithm, header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(header)) + "." + encode([]byte(claims))
	return input + "." + encode(must(must(jws.NewSigner(alg)).Sign([]byte(input), signer)))
}

// An Issuer is an authorization server on loopback that serves its metadata (RFC 8414) and its keys, and signs whatever
// tokens it is asked for, with ES256. Its methods may be called by any number of goroutines.
type Issuer struct {
	URL string // the issuer identifier, without a slash at the end

	server *httptest.Server
	mu     sync.Mutex
	keys   []*ecdsa.PrivateKey // the last one signs
}

// NewIssuer starts an issuer. The caller closes it.
func NewIssuer() *Issuer {
	i := new(Issuer)
	i.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", i.serveMetadata)
	mux.HandleFunc("GET /jwks", i.serveKeys)
	i.server = httptest.NewUnstartedServer(mux)
	i.URL = "http://" + i.server.Listener.Addr().String() // before anyone can ask for it
	i.server.Start()
	return i
}

// Close stops the issuer.
func (i *Issuer) Close() { i.server.Close() }

// Rotate makes the issuer sign with a new key from now on. It still serves the key before that, and no older one.
func (i *Issuer) Rotate() {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys[max(0, len(i.keys)-1):], key)
}

// Token returns an access token of the form of RFC 9068 for audience, bound to the key with thumbprint jkt, or to none if
// jkt is "". It is valid for five minutes; claims add to its claims or replace them, and a nil value removes one.
func (i *Issuer) Token(audience, jkt string, claims map[string]any) string {
	now := time.Now()
	all := map[string]any{
		"iss": i.URL, "sub": "alice", "aud": audience, "client_id": "test-client", "scope": "orders:read",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(),
	}
	if jkt != "" {
		all["cnf"] = map[string]string{"jkt": jkt}
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })

	i.mu.Lock()
	key := i.keys[len(i.keys)-1]
	i.mu.Unlock()
	header := map[string]string{"typ": "at+jwt", "alg": "ES256", "kid": kid(key)}
	return sign(key, jwa.ES256, string(must(json.Marshal(header))), string(must(json.Marshal(all))))
}

func kid(key *ecdsa.PrivateKey) string { return must(jkt.Thumbprint(key.Public())) }

func (i *Issuer) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/jwks"})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set []jwk.Key
	for _, key := range i.keys {
		public := must(jwk.FromRaw(key.Public()))
		check(public.Set(jwk.KeyIDKey, kid(key)))
		check(public.Set(jwk.AlgorithmKey, jwa.ES256))
		check(public.Set(jwk.KeyUsageKey, jwk.ForSignature))
		set = append(set, public)
	}
	writeJSON(w, map[string]any{"keys": set})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(must(json.Marshal(v))) // a client that went away has no use for an error
}

// Context returns a context as a protected handler sees it: of a request with token, whose sender proved possession of
// the key that the token is bound to. A token that is bound to none came under the Bearer scheme.
func Context(ctx context.Context, token *dpop.Token) context.Context {
	result := &dpop.Result{Token: token}
	if jkt := token.Confirmation.JKT; jkt != "" {
		result.Proof = &dpop.Proof{JKT: jkt, Algorithm: "ES256", IssuedAt: time.Now()}
	}
	return dpop.NewContext(ctx, result)
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic("dpoptest: " + err.Error())
	}
}
