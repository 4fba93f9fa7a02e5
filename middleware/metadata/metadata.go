// Package metadata publishes what clients need to know of a protected resource (RFC 9728): whose tokens it takes, and that
// they must be bound to a key. What the Verifier does is taken from its own configuration, so that the document cannot say
// something else.
//
//	at, err := metadata.URL("https://api.example.com")
//	verifier, err := dpop.NewVerifier(dpop.Config{ResourceMetadata: at, …})
//	document, err := metadata.New(verifier, metadata.Config{
//		Resource:             "https://api.example.com",
//		AuthorizationServers: []string{"https://id.example.com/realms/demo"},
//	})
//	mux.Handle(document.Path(), document)
//
// The document says that tokens must be bound to a DPoP key unless Config.AllowBearer of the Verifier is set, be it on or off
// at the moment. Of tokens that are bound to a certificate, which a Verifier takes where requests come with one, it says
// nothing.
package metadata

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/internal/issuer"
)

// wellKnown is put between the host and the path of a resource (RFC 9728 §3.1).
const wellKnown = "/.well-known/oauth-protected-resource"

// A Config describes a resource (RFC 9728 §2). Resource is required. What is empty is left out of the document.
type Config struct {
	// Resource is the resource identifier: an https URL, with a path if it has one, without query, fragment, and slash at
	// the end of a path. Clients compare it, character by character, with what they know the resource by.
	Resource string
	// InsecureHTTP permits Resource and AuthorizationServers to be plain http. Loopback addresses may always be.
	InsecureHTTP bool

	AuthorizationServers []string // issuer identifiers of those whose tokens are taken
	Scopes               []string // that are used in requests here; not all need be named
	Name                 string   // for people
	Documentation        string   // URL
	Policy               string   // URL, of how clients may use what they get
	TermsOfService       string   // URL
}

// URL returns where the metadata of a resource are: https://api.example.com/v1 has them at
// https://api.example.com/.well-known/oauth-protected-resource/v1. It is what dpop.Config.ResourceMetadata is to be, so that
// challenges name it (RFC 9728 §5.1). The error says what is wrong with resource; plain http is not.
func URL(resource string) (string, error) {
	u, err := parse(resource, true)
	if err != nil {
		return "", fmt.Errorf("metadata: the resource %w", err)
	}
	return u.Scheme + "://" + u.Host + metadataPath(u), nil
}

// metadataPath returns the path of the metadata of a resource. Only the slash right behind the host is dropped (RFC 9728
// §3.1); parse has refused any other.
func metadataPath(resource *url.URL) string {
	return wellKnown + strings.TrimSuffix(resource.EscapedPath(), "/")
}

// parse returns raw, unless it is no identifier of a resource.
func parse(raw string, insecureHTTP bool) (*url.URL, error) {
	if err := check(raw, insecureHTTP); err != nil {
		return nil, err
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, err
	case strings.HasSuffix(u.Host, ":") || strings.Trim(strings.ToLower(u.Host), "abcdefghijklmnopqrstuvwxyz0123456789-._:[]") != "":
		return nil, fmt.Errorf("has the host %.100q: write it as clients send it, in ASCII and without a zone", u.Host)
	case !strings.HasSuffix(raw, u.EscapedPath()):
		return nil, fmt.Errorf("is %.100q: percent-encode its path", raw)
	case u.Path != "/" && strings.HasSuffix(u.Path, "/"):
		return nil, fmt.Errorf("is %.100q: leave the slash at the end out, since clients differ in where they look then", raw)
	case u.Path != "" && path.Clean(u.Path) != u.Path:
		return nil, fmt.Errorf("is %.100q: leave out empty and dot segments, which clients and routers resolve", raw)
	}
	return u, nil
}

// check returns an error unless raw is an identifier of a resource or an issuer.
func check(raw string, insecureHTTP bool) error {
	if err := issuer.CheckURL(raw, insecureHTTP); err != nil {
		return fmt.Errorf("%w: give an https URL, such as https://api.example.com", err)
	}
	if strings.ContainsAny(raw, "?#") {
		return fmt.Errorf("is %.100q and more: leave query and fragment out", issuer.Shown(raw))
	}
	return nil
}

// A Document is the metadata of one resource. It may be used by any number of goroutines. Anyone may read it, from any
// origin.
type Document struct {
	path string
	body []byte
}

// New returns the document of the resource that v protects. The error names every mistake; one is a Verifier whose
// challenges name another document, or none.
func New(v *dpop.Verifier, cfg Config) (*Document, error) {
	if v == nil {
		return nil, errors.New("metadata: the verifier is nil: pass what dpop.NewVerifier returned")
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("metadata: "+format, args...)) }
	config := v.Config()
	resource, err := parse(cfg.Resource, cfg.InsecureHTTP)
	if err != nil {
		wrong("Config.Resource %w", err)
	} else if at, _ := URL(cfg.Resource); config.ResourceMetadata != at {
		wrong("dpop.Config.ResourceMetadata is %q: set %q, where the document of %s is", config.ResourceMetadata, at, cfg.Resource)
	}
	for _, server := range cfg.AuthorizationServers {
		if err := check(server, cfg.InsecureHTTP); err != nil {
			wrong("Config.AuthorizationServers has one that %w", err)
		}
	}
	for _, scope := range cfg.Scopes {
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			wrong("Config.Scopes has %q: name scopes one by one, as RFC 6749 §3.3 spells them", scope)
		}
	}
	for _, page := range []struct{ name, url string }{
		{"Documentation", cfg.Documentation}, {"Policy", cfg.Policy}, {"TermsOfService", cfg.TermsOfService},
	} {
		if page.url == "" {
			continue
		}
		if err := issuer.CheckURL(page.url, true); err != nil {
			wrong("Config.%s %w: give the URL of a page", page.name, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	body, err := json.Marshal(document{
		Resource: cfg.Resource, AuthorizationServers: cfg.AuthorizationServers, Scopes: cfg.Scopes,
		BearerMethods: []string{"header"}, Algorithms: config.Algorithms, BoundRequired: config.AllowBearer == nil,
		Name: cfg.Name, Documentation: cfg.Documentation, Policy: cfg.Policy, TermsOfService: cfg.TermsOfService,
	})
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return &Document{path: metadataPath(resource), body: append(body, '\n')}, nil
}

// document is the JSON object of RFC 9728 §2. Members that are empty or false are left out (§3.2).
type document struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers,omitempty"`
	Scopes               []string `json:"scopes_supported,omitempty"`
	BearerMethods        []string `json:"bearer_methods_supported,omitempty"`
	Algorithms           []string `json:"dpop_signing_alg_values_supported,omitempty"`
	BoundRequired        bool     `json:"dpop_bound_access_tokens_required,omitempty"`
	Name                 string   `json:"resource_name,omitempty"`
	Documentation        string   `json:"resource_documentation,omitempty"`
	Policy               string   `json:"resource_policy_uri,omitempty"`
	TermsOfService       string   `json:"resource_tos_uri,omitempty"`
}

// Path returns the path, percent-encoded as in a request, at which the document must be served: at the root of the host,
// also where the resource has a path or a proxy strips one. It must not be protected. It is a pattern for http.ServeMux; beside
// one with a method for all paths, such as "GET /", it must have that method, too.
func (d *Document) Path() string { return d.path }

// ServeHTTP answers GET and HEAD with the document, OPTIONS with what a browser asks before a GET with fields of its own, and
// any other method with 405.
func (d *Document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const methods = "GET, HEAD, OPTIONS"
	h := w.Header()
	if h.Get("Access-Control-Allow-Origin") == "" { // else a middleware outside has seen to it
		h.Set("Access-Control-Allow-Origin", "*") // clients in browsers, too, must read it before they have a token
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(d.body)))
		_, _ = w.Write(d.body) // a client that went away has no use for an error
	case http.MethodOptions:
		h.Set("Allow", methods)
		h.Set("Access-Control-Allow-Methods", methods)
		h.Set("Access-Control-Allow-Headers", "*")
		w.WriteHeader(http.StatusNoContent)
	default:
		h.Set("Allow", methods)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	}
}
