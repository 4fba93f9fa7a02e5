package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/middleware/dpophttp"
)

const metadataPath = "/.well-known/oauth-protected-resource" // RFC 9728 §3

// verifierConfig returns the flags as the Verifier's configuration; Resolver and Replay are still to be set.
func (o *options) verifierConfig(logger *slog.Logger) dpop.Config {
	config := dpop.Config{
		Algorithms: o.algs, MaxAge: o.maxAge, Leeway: o.leeway, ClockSkew: o.clockSkew,
		ResourceMetadata: o.origins[0] + metadataPath,
		Logger:           logger,
	}
	if o.allowBearer {
		config.AllowBearer = func() bool { return true }
	}
	return config
}

// newResolver returns what validates access tokens; ctx ends its refresh of the issuer's keys.
func (o *options) newResolver(ctx context.Context, logger *slog.Logger) (dpop.TokenResolver, error) {
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
	document := o.metadata(verifier.Config())
	// Not a ServeMux: that redirects paths such as //a/../b, and clients may address them.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == metadataPath && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			writeJSON(w, document)
			return
		}
		api.ServeHTTP(w, r)
	}), nil
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

// metadata returns the description of this resource (RFC 9728 §2), from what the Verifier does.
func (o *options) metadata(config dpop.Config) map[string]any {
	document := map[string]any{
		"resource":                          o.origins[0],
		"authorization_servers":             []string{o.issuer},
		"bearer_methods_supported":          []string{"header"},
		"dpop_signing_alg_values_supported": config.Algorithms,
	}
	if config.AllowBearer == nil { // RFC 9728 §3.2: what would be false is left out
		document["dpop_bound_access_tokens_required"] = true
	}
	return document
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that went away has no use for an error
}
