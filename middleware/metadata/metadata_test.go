package metadata_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/middleware/dpophttp"
	"github.com/senderbound/senderbound/middleware/metadata"
	"github.com/senderbound/senderbound/replay"
)

const (
	api       = "https://api.example.com"
	wellKnown = "/.well-known/oauth-protected-resource"
)

// newVerifier returns a Verifier that names a document at this URL and takes no token.
func newVerifier(t testing.TB, at string, changes ...func(*dpop.Config)) *dpop.Verifier {
	t.Helper()
	cfg := dpop.Config{
		ResourceMetadata: at,
		Replay:           replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) { return true, nil }),
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
			return nil, dpop.ErrTokenInvalid
		}),
	}
	for _, change := range changes {
		change(&cfg)
	}
	v, err := dpop.NewVerifier(cfg)
	require.NoError(t, err)
	return v
}

func newDocument(t testing.TB, cfg metadata.Config, changes ...func(*dpop.Config)) *metadata.Document {
	t.Helper()
	at, err := metadata.URL(cfg.Resource)
	require.NoError(t, err)
	d, err := metadata.New(newVerifier(t, at, changes...), cfg)
	require.NoError(t, err)
	return d
}

func body(t testing.TB, d http.Handler) string {
	t.Helper()
	answer := httptest.NewRecorder()
	d.ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 200, answer.Code)
	return answer.Body.String()
}

// R131, R132, R134: the whole document, to the last character: what the Verifier is configured to do, and nothing empty.
func TestR131TheDocument(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg    metadata.Config
		change func(*dpop.Config)
		want   string
	}{
		"R132 the least": {metadata.Config{Resource: api}, nil, `{"resource":"https://api.example.com",` +
			`"bearer_methods_supported":["header"],"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"],` +
			`"dpop_bound_access_tokens_required":true}`},
		"R132 empty lists": {metadata.Config{Resource: api, AuthorizationServers: []string{}, Scopes: []string{}},
			nil, `{"resource":"https://api.example.com","bearer_methods_supported":["header"],` +
				`"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"],"dpop_bound_access_tokens_required":true}`},
		"all": {metadata.Config{
			Resource: api + "/v1", AuthorizationServers: []string{"https://id.example.com/realms/a", "https://id.example.org"},
			Scopes: []string{"orders:read", "!#[]~"}, Name: `Orders & "more"`, Documentation: api + "/docs?a=b&c#d",
			Policy: "http://www.example.com/policy", TermsOfService: "https://www.example.com/tos",
		}, func(c *dpop.Config) { c.Algorithms = []string{"PS256", "ES384"} }, `{"resource":"https://api.example.com/v1",` +
			`"authorization_servers":["https://id.example.com/realms/a","https://id.example.org"],` +
			`"scopes_supported":["orders:read","!#[]~"],"bearer_methods_supported":["header"],` +
			`"dpop_signing_alg_values_supported":["PS256","ES384"],"dpop_bound_access_tokens_required":true,` +
			`"resource_name":"Orders \u0026 \"more\"","resource_documentation":"https://api.example.com/docs?a=b\u0026c#d",` +
			`"resource_policy_uri":"http://www.example.com/policy","resource_tos_uri":"https://www.example.com/tos"}`},
		"R131 bearer tokens, too": {metadata.Config{Resource: api}, func(c *dpop.Config) { c.AllowBearer = func() bool { return true } },
			`{"resource":"https://api.example.com","bearer_methods_supported":["header"],` +
				`"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"]}`},
		"R131 bearer tokens, but not now": {metadata.Config{Resource: api}, func(c *dpop.Config) { c.AllowBearer = func() bool { return false } },
			`{"resource":"https://api.example.com","bearer_methods_supported":["header"],` +
				`"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"]}`},
		"R134 with the slash of no path": {metadata.Config{Resource: api + "/"}, func(c *dpop.Config) { c.Algorithms = []string{"ES256"} },
			`{"resource":"https://api.example.com/","bearer_methods_supported":["header"],` +
				`"dpop_signing_alg_values_supported":["ES256"],"dpop_bound_access_tokens_required":true}`},
	} {
		if tt.change == nil {
			tt.change = func(*dpop.Config) {}
		}
		if got := body(t, newDocument(t, tt.cfg, tt.change)); got != tt.want+"\n" {
			t.Errorf("%s: the document is\n%s\nwant\n%s", name, got, tt.want)
		}
	}
}

// R130, R133, R135: where the document of a resource is. What URL returns a Verifier takes and names in its challenges, and
// a ServeMux with Path serves it there.
func TestR133WhereTheDocumentIs(t *testing.T) {
	for resource, want := range map[string]string{
		api:                              api + wellKnown,
		api + "/":                        api + wellKnown,
		api + "/v1":                      api + wellKnown + "/v1",
		api + "/v1/orders":               api + wellKnown + "/v1/orders",
		api + "/a%2Fb":                   api + wellKnown + "/a%2Fb",
		api + "/a%20b/%7Btenant%7D":      api + wellKnown + "/a%20b/%7Btenant%7D",
		api + "/%C3%A4":                  api + wellKnown + "/%C3%A4",
		api + "/a.b/~c;d=e,f":            api + wellKnown + "/a.b/~c;d=e,f",
		api + ":8443/v1":                 api + ":8443" + wellKnown + "/v1",
		api + ":443":                     api + ":443" + wellKnown,
		"https://API.example.com/V1":     "https://API.example.com" + wellKnown + "/V1",
		"https://192.0.2.1":              "https://192.0.2.1" + wellKnown,
		"https://[2001:db8::1]":          "https://[2001:db8::1]" + wellKnown,
		"https://[2001:db8::1]:8443/v1":  "https://[2001:db8::1]:8443" + wellKnown + "/v1",
		"http://127.0.0.1:8080/v1":       "http://127.0.0.1:8080" + wellKnown + "/v1",
		"https://xn--bcher-kva.example/": "https://xn--bcher-kva.example" + wellKnown,
	} {
		at, err := metadata.URL(resource)
		if err != nil || at != want {
			t.Errorf("the metadata of %s are at %q (%v), want %q", resource, at, err, want)
			continue
		}
		v := newVerifier(t, at)
		d, err := metadata.New(v, metadata.Config{Resource: resource})
		require.NoError(t, err)

		_, err = v.Verify(t.Context(), dpop.Request{Method: "GET", URI: resource})
		if challenge := fmt.Sprint(err.(*dpop.Error).Challenges); !strings.Contains(challenge, `resource_metadata="`+want+`"`) {
			t.Errorf("R135 the challenge %s does not name %s", challenge, want)
		}
		mux := http.NewServeMux()
		mux.Handle(d.Path(), d)
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest("GET", want, nil))
		var got struct{ Resource string }
		if err := json.Unmarshal(answer.Body.Bytes(), &got); answer.Code != 200 || err != nil || got.Resource != resource {
			t.Errorf("R134 %s answers %d and the resource %q, want %q", want, answer.Code, got.Resource, resource)
		}
		for _, other := range []string{want + "/", want + "/other", api + wellKnown + "/other"} {
			answer := httptest.NewRecorder()
			mux.ServeHTTP(answer, httptest.NewRequest("GET", other, nil))
			if answer.Code != 404 {
				t.Errorf("%s, which describes another resource, answers %d, want 404", other, answer.Code)
			}
		}
	}
}

// R130: what is no resource identifier is a mistake at start, in a sentence.
func TestR130NewRefuses(t *testing.T) {
	good := metadata.Config{Resource: api}
	for name, tt := range map[string]struct {
		change func(*metadata.Config)
		want   string
	}{
		"no resource":                 {func(c *metadata.Config) { c.Resource = "" }, "Config.Resource is empty: give an https URL"},
		"a relative resource":         {func(c *metadata.Config) { c.Resource = "/v1" }, `Config.Resource is "/v1", not an absolute URL`},
		"a name":                      {func(c *metadata.Config) { c.Resource = "api" }, `Config.Resource is "api", not an absolute URL`},
		"R130 plain http":             {func(c *metadata.Config) { c.Resource = "http://api.example.com" }, "neither https nor a loopback address"},
		"R130 a fragment":             {func(c *metadata.Config) { c.Resource = api + "#a" }, "leave query and fragment out"},
		"R130 an empty fragment":      {func(c *metadata.Config) { c.Resource = api + "#" }, "leave query and fragment out"},
		"R130 a query":                {func(c *metadata.Config) { c.Resource = api + "?tenant=secret" }, "leave query and fragment out"},
		"another scheme":              {func(c *metadata.Config) { c.Resource = "ftp://api.example.com" }, "not an https URL"},
		"a user":                      {func(c *metadata.Config) { c.Resource = "https://user:secret@api.example.com" }, "has a user name in it"},
		"no host":                     {func(c *metadata.Config) { c.Resource = "https:///v1" }, "not an absolute URL"},
		"a port that is missing":      {func(c *metadata.Config) { c.Resource = api + ":/v1" }, "write it as clients send it"},
		"a zone":                      {func(c *metadata.Config) { c.Resource = "https://[fe80::1%25eth0]/" }, "without a zone"},
		"a host in another script":    {func(c *metadata.Config) { c.Resource = "https://bücher.example" }, "in ASCII"},
		"a host with a quote":         {func(c *metadata.Config) { c.Resource = `https://a"b.example` }, "write it as clients send it"},
		"CR and LF":                   {func(c *metadata.Config) { c.Resource = api + "/\r\nX: y" }, "is not a URL"},
		"R133 a slash at the end":     {func(c *metadata.Config) { c.Resource = api + "/v1/" }, "leave the slash at the end out"},
		"an encoded slash at the end": {func(c *metadata.Config) { c.Resource = api + "/v1%2F" }, "leave the slash at the end out"},
		"two slashes":                 {func(c *metadata.Config) { c.Resource = api + "/a//b" }, "leave out empty and dot segments"},
		"two slashes alone":           {func(c *metadata.Config) { c.Resource = api + "//" }, "leave the slash at the end out"},
		"dot segments":                {func(c *metadata.Config) { c.Resource = api + "/a/../b" }, "leave out empty and dot segments"},
		"dot segments, encoded":       {func(c *metadata.Config) { c.Resource = api + "/a/%2e%2E/b" }, "leave out empty and dot segments"},
		"a space":                     {func(c *metadata.Config) { c.Resource = api + "/a b" }, "percent-encode its path"},
		"a placeholder":               {func(c *metadata.Config) { c.Resource = api + "/{tenant}" }, "percent-encode its path"},
		"what is no escape":           {func(c *metadata.Config) { c.Resource = api + "/%zz" }, "is not a URL"},
		"a resource that challenges do not name": {func(c *metadata.Config) { c.Resource = api + "/v1" },
			`dpop.Config.ResourceMetadata is "https://api.example.com/.well-known/oauth-protected-resource": set ` +
				`"https://api.example.com/.well-known/oauth-protected-resource/v1", where the document of https://api.example.com/v1 is`},
		"a server by plain http":     {func(c *metadata.Config) { c.AuthorizationServers = []string{"http://id.example.com"} }, "AuthorizationServers has one that is"},
		"a server with a query":      {func(c *metadata.Config) { c.AuthorizationServers = []string{api, api + "?a=secret"} }, "AuthorizationServers has one that is"},
		"an empty server":            {func(c *metadata.Config) { c.AuthorizationServers = []string{""} }, "AuthorizationServers has one that is empty"},
		"an empty scope":             {func(c *metadata.Config) { c.Scopes = []string{""} }, `Config.Scopes has ""`},
		"two scopes in one":          {func(c *metadata.Config) { c.Scopes = []string{"a", "b c"} }, `Config.Scopes has "b c": name scopes one by one`},
		"a scope with a quote":       {func(c *metadata.Config) { c.Scopes = []string{`a"`} }, `Config.Scopes has "a\""`},
		"a scope in another script":  {func(c *metadata.Config) { c.Scopes = []string{"ä"} }, `Config.Scopes has "ä"`},
		"a scope with a delete":      {func(c *metadata.Config) { c.Scopes = []string{"a\x7f"} }, `Config.Scopes has "a\x7f"`},
		"a relative page":            {func(c *metadata.Config) { c.Documentation = "/docs" }, `Config.Documentation is "/docs", not an absolute URL: give the URL of a page`},
		"a page that runs":           {func(c *metadata.Config) { c.Policy = "javascript://x/%0aalert(1)" }, "Config.Policy is"},
		"a page with a password":     {func(c *metadata.Config) { c.TermsOfService = "https://a:secret@b.example" }, "Config.TermsOfService has a user name"},
		"a page that is not a URL":   {func(c *metadata.Config) { c.Documentation = "https://[" }, "Config.Documentation is not a URL"},
		"a page that is a host only": {func(c *metadata.Config) { c.Documentation = "//www.example.com" }, "Config.Documentation is"},
	} {
		cfg := good
		tt.change(&cfg)
		d, err := metadata.New(newVerifier(t, api+wellKnown), cfg)
		switch {
		case err == nil || d != nil:
			t.Errorf("%s: New returned %v and %v", name, d, err)
		case !strings.HasPrefix(err.Error(), "metadata: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: the error is %q, want one line with %q", name, err, tt.want)
		case strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error shows a query or a password: %v", name, err)
		}
	}
	if _, err := metadata.New(newVerifier(t, api+wellKnown), good); err != nil {
		t.Errorf("control: what all of them were made of is refused, too: %v", err)
	}
	_, err := metadata.New(newVerifier(t, ""), metadata.Config{
		Resource: api, AuthorizationServers: []string{"a", "b"}, Scopes: []string{" "}, Policy: "p",
	})
	if err == nil || strings.Count(err.Error(), "\n") != 4 || !strings.Contains(err.Error(), `ResourceMetadata is ""`) {
		t.Errorf("all five mistakes are to be reported at once, not %v", err)
	}
	if _, err := metadata.New(nil, good); err == nil || !strings.Contains(err.Error(), "pass what dpop.NewVerifier returned") {
		t.Errorf("without a verifier New returned %v", err)
	}
	for _, resource := range []string{"", "/v1", api + "/v1/", api + "?a"} {
		if at, err := metadata.URL(resource); err == nil || at != "" || !strings.HasPrefix(err.Error(), "metadata: the resource ") {
			t.Errorf("of %q URL returns %q and %v", resource, at, err)
		}
	}
}

// Plain http is for loopback, or for those who ask for it.
func TestInsecureHTTP(t *testing.T) {
	cfg := metadata.Config{Resource: "http://api.example.com", AuthorizationServers: []string{"http://id.example.com"}, InsecureHTTP: true}
	if got := body(t, newDocument(t, cfg)); !strings.HasPrefix(got, `{"resource":"http://api.example.com","authorization_servers":["http://id.example.com"]`) {
		t.Errorf("the document is %s", got)
	}
	newDocument(t, metadata.Config{Resource: "http://localhost:8080", AuthorizationServers: []string{"http://127.0.0.1:9090"}})
}

// What each method is answered with, over a connection, and that anyone may read it from anywhere.
func TestMethods(t *testing.T) {
	d := newDocument(t, metadata.Config{Resource: api})
	want := body(t, d)
	server := httptest.NewServer(d)
	defer server.Close()
	for method, tt := range map[string]struct {
		status int
		body   string
		header map[string]string
	}{
		"GET":  {200, want, map[string]string{"Content-Type": "application/json"}},
		"HEAD": {200, "", map[string]string{"Content-Type": "application/json", "Content-Length": fmt.Sprint(len(want))}},
		"OPTIONS": {204, "", map[string]string{
			"Allow": "GET, HEAD, OPTIONS", "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS", "Access-Control-Allow-Headers": "*",
		}},
		"POST":   {405, "Method Not Allowed\n", map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		"PUT":    {405, "Method Not Allowed\n", map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		"DELETE": {405, "Method Not Allowed\n", map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
		"get":    {405, "Method Not Allowed\n", map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
	} {
		r, err := http.NewRequest(method, server.URL, nil)
		require.NoError(t, err)
		r.Header.Set("Origin", "https://app.example")
		r.Header.Set("Authorization", "Bearer x") // which does not matter
		answer, err := server.Client().Do(r)
		require.NoError(t, err)
		got, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		if answer.StatusCode != tt.status || string(got) != tt.body {
			t.Errorf("R134 %s is answered with %d and %q, want %d and %q", method, answer.StatusCode, got, tt.status, tt.body)
		}
		tt.header["Access-Control-Allow-Origin"] = "*"
		for name, want := range tt.header {
			if got := answer.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", method, name, got, want)
			}
		}
	}
}

// What a CORS middleware outside has allowed stands: with credentials, * would be refused by browsers.
func TestACORSMiddlewareOutside(t *testing.T) {
	answer := httptest.NewRecorder()
	answer.Header().Set("Access-Control-Allow-Origin", "https://app.example")
	newDocument(t, metadata.Config{Resource: api}).ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	if got := answer.Header().Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != "https://app.example" {
		t.Errorf("Access-Control-Allow-Origin is %q", got)
	}
}

// An API with its document beside it. A client that comes without a token is told where it is.
func Example() {
	const resource = "https://api.example.com/v1"
	at, err := metadata.URL(resource)
	if err != nil {
		panic(err)
	}
	verifier, err := dpop.NewVerifier(dpop.Config{
		ResourceMetadata: at,
		Resolver:         dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) { return nil, dpop.ErrTokenInvalid }),
		Replay:           replay.SetNXFunc(func(context.Context, string, time.Duration) (bool, error) { return true, nil }),
	})
	if err != nil {
		panic(err)
	}
	document, err := metadata.New(verifier, metadata.Config{
		Resource:             resource,
		AuthorizationServers: []string{"https://id.example.com/realms/shop"},
	})
	if err != nil {
		panic(err)
	}
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{"https://api.example.com"}})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", protect(http.NotFoundHandler()))
	mux.Handle(document.Path(), document)

	get := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
		return answer
	}
	answer := get("/v1/orders")
	fmt.Println(answer.Code, answer.Header().Get("WWW-Authenticate"))
	answer = get("/.well-known/oauth-protected-resource/v1")
	fmt.Println(answer.Code, answer.Body)
	// Output:
	// 401 DPoP algs="ES256 EdDSA PS256", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource/v1"
	// 200 {"resource":"https://api.example.com/v1","authorization_servers":["https://id.example.com/realms/shop"],"bearer_methods_supported":["header"],"dpop_signing_alg_values_supported":["ES256","EdDSA","PS256"],"dpop_bound_access_tokens_required":true}
}
