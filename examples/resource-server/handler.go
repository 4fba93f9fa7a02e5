package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/introspect"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/middleware/metadata"
)

// verifierConfig returns the flags as the Verifier's configuration; Resolver and Replay are still to be set.
func (o *options) verifierConfig(logger *slog.Logger) (config dpop.Config, err error) {
	at, err := metadata.URL(o.origins[0])
	if err != nil {
		return config, err
	}
	config = dpop.Config{
		Algorithms: o.algs, MaxAge: o.maxAge, Leeway: o.leeway, ClockSkew: o.clockSkew,
		ResourceMetadata: at,
		Logger:           logger,
	}
	if o.allowBearer {
		config.AllowBearer = func() bool { return true }
	}
	if o.nonce {
		config.Nonces, err = o.newNonces()
	}
	return config, err
}

// newNonces returns the nonces of the secrets in the environment.
func (o *options) newNonces() (*nonce.Source, error) {
	var secrets [][]byte
	for text := range strings.SplitSeq(os.Getenv("NONCE_SECRET"), ",") {
		secret, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil || len(secret) < 32 { // the error could quote it
			return nil, errors.New("environment NONCE_SECRET: set 32 random bytes or more in base64url, the same for all servers, " +
				"or several of these with commas between them")
		}
		secrets = append(secrets, secret)
	}
	return nonce.New(nonce.Config{ClockSkew: o.clockSkew}, secrets...)
}

// newResolver returns what validates access tokens; ctx ends its refresh of the issuer's keys.
func (o *options) newResolver(ctx context.Context, logger *slog.Logger) (dpop.TokenResolver, error) {
	if o.introspect != "" {
		return introspect.NewResolver(introspect.Config{
			Endpoint: o.introspect, Issuer: o.issuer,
			Audience: o.audience, AllowAnyAudience: o.audience == "",
			Authenticate: introspect.BasicAuth(o.clientID, os.Getenv("CLIENT_SECRET")),
		})
	}
	issuer := atjwt.Config{Issuer: o.issuer, Audience: o.audience}
	if o.keycloak {
		issuer = atjwt.Keycloak(o.issuer, o.audience)
	}
	issuer.JWKSURI = o.jwks
	issuer.Logger = logger
	return atjwt.NewResolver(ctx, issuer)
}

// newHandler returns the API behind a Verifier of config, and its metadata beside it.
func (o *options) newHandler(config dpop.Config) (http.Handler, error) {
	verifier, err := dpop.NewVerifier(config)
	if err != nil {
		return nil, err
	}
	targets := dpophttp.Config{Origins: o.origins}
	if targets.TrustedProxies, err = o.proxies(); err != nil {
		return nil, err
	}
	if len(targets.TrustedProxies) > 0 {
		targets.Forwarded = dpophttp.XForwarded
	}
	protect, err := dpophttp.New(verifier, targets)
	if err != nil {
		return nil, err
	}
	api := protect(http.HandlerFunc(echo))
	document, err := o.newDocument(verifier)
	if err != nil {
		return nil, err
	}
	// Not a ServeMux: that redirects paths such as //a/../b, and clients may address them.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() == document.Path() && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			document.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	}), nil
}

// newDocument returns the description of this resource (RFC 9728).
func (o *options) newDocument(v *dpop.Verifier) (*metadata.Document, error) {
	config := metadata.Config{Resource: o.origins[0], InsecureHTTP: true} // to be tried out where there is no TLS
	if o.issuer != "" {
		config.AuthorizationServers = []string{o.issuer}
	}
	return metadata.New(v, config)
}

// echo answers with what is known of the caller.
func echo(w http.ResponseWriter, r *http.Request) {
	result, _ := dpop.FromContext(r.Context())
	body := struct {
		Subject           string `json:"sub"`
		ClientID          string `json:"client_id"`
		Scope             string `json:"scope"`
		JKT               string `json:"jkt,omitempty"`
		SenderConstrained bool   `json:"sender_constrained"`
	}{
		result.Token.Subject, result.Token.ClientID, result.Token.Scope,
		result.Token.Confirmation.JKT, result.SenderConstrained(),
	}
	writeJSON(w, body)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that went away has no use for an error
}
