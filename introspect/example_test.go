package introspect_test

import (
	"crypto"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/replay"
)

var store replay.Store // such as memstore.New returns

// A resource that asks a Keycloak realm about each token, and believes an answer for three seconds. A logout makes it forget
// at once.
func ExampleNewResolver() {
	resolver, err := introspect.NewResolver(introspect.Config{
		Issuer:       "https://id.example.com/realms/demo",
		Audience:     "orders-api",
		Authenticate: introspect.BasicAuth("orders-api", os.Getenv("CLIENT_SECRET")),
		CacheTTL:     3 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	if err != nil {
		log.Fatal(err)
	}
	_ = verifier // for dpophttp.New

	loggedOut := "session-1" // of a logout token that was verified
	resolver.Purge(func(token *dpop.Token) bool {
		var claims struct {
			SID string `json:"sid"`
		}
		return token.Claims(&claims) == nil && claims.SID == loggedOut
	})
}

// No secret: the resource signs, with a key that may live in an HSM, who it is.
func ExamplePrivateKeyJWT() {
	var signer crypto.Signer // such as x509.ParsePKCS8PrivateKey returns
	const issuer = "https://id.example.com/realms/demo"
	authenticate, err := introspect.PrivateKeyJWT("orders-api", issuer, signer, "key-1")
	if err != nil {
		log.Fatal(err)
	}
	resolver, err := introspect.NewResolver(introspect.Config{Issuer: issuer, Audience: "orders-api", Authenticate: authenticate})
	if err != nil {
		log.Fatal(err)
	}
	_ = resolver // for dpop.Config
}

// No secret either: the resource has a client certificate.
func ExampleMutualTLS() {
	var transport *http.Transport // with the certificate in its TLSClientConfig
	resolver, err := introspect.NewResolver(introspect.Config{
		Endpoint:     "https://mtls.id.example.com/introspect",
		Audience:     "orders-api",
		Authenticate: introspect.MutualTLS("orders-api"),
		HTTPClient:   &http.Client{Transport: transport},
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = resolver // for dpop.Config
}
