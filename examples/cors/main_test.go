package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/rs/cors"
	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/middleware/dpophttp"
)

const (
	api = "https://api.example.com"
	app = "https://app.example.com"
)

// What becomes of a script's request.
const (
	blocked = "the preflight fails, nothing is sent"
	hidden  = "it is sent, and the script sees nothing of the answer"
	seen    = "the script sees the answer"
)

// F12, R037: where rs/cors stands outside, a script of another origin reads what it needs of each answer, refused ones, too.
// Where it stands inside, or nowhere, the same script shows what is lacking. These cases are the controls.
func TestCORS(t *testing.T) {
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	verifier, err := newVerifier(t.Context(), atjwt.Config{Issuer: issuer.URL, Audience: "orders-api"})
	require.NoError(t, err)
	key := dpoptest.NewKey()
	token := issuer.Token("orders-api", key.JKT(), nil)
	headers := func(nonce string) map[string]string {
		claims := dpopclient.Claims{Method: "GET", URI: api + "/orders", AccessToken: token, Nonce: nonce}
		return map[string]string{"Authorization": "DPoP " + token, "DPoP": dpoptest.Proof(key, claims)}
	}

	outside, err := newHandler(verifier, api, app)
	require.NoError(t, err)
	// inside has no route, since the preflight must reach rs/cors. exposed is for rs/cors.
	inside := func(allowPreflight bool, exposed ...string) http.Handler {
		protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{api}, AllowPreflight: allowPreflight})
		require.NoError(t, err)
		return protect(cors.New(cors.Options{
			AllowedOrigins: []string{app}, AllowedHeaders: []string{"Authorization", "DPoP"}, ExposedHeaders: exposed,
		}).Handler(http.HandlerFunc(listOrders)))
	}
	protect, err := dpophttp.New(verifier, dpophttp.Config{Origins: []string{api}})
	require.NoError(t, err)
	none := protect(http.HandlerFunc(listOrders))

	const (
		own     = "X-Total-Count"
		granted = "Date" // with no challenge, and no newer nonce while the client's is new
		told    = "Date DPoP-Nonce WWW-Authenticate"
		thief   = "https://evil.example"
	)
	for name, test := range map[string]struct {
		handler          http.Handler
		origin           string
		refused, fields1 string // a request whose proof has no nonce: what becomes of it, and the fields that are seen
		passes, fields2  string // one whose proof has a nonce
	}{
		"outside":                   {outside, app, seen, told, seen, granted + " " + own},
		"outside, another origin":   {outside, thief, blocked, "", blocked, ""},
		"inside, all is named":      {inside(true, own, "DPoP-Nonce", "WWW-Authenticate", "Date"), app, hidden, "", seen, granted + " " + own},
		"inside, one's own alone":   {inside(true, own), app, hidden, "", seen, own},
		"inside, nothing is named":  {inside(true), app, hidden, "", seen, granted},
		"inside, another origin":    {inside(true), thief, blocked, "", blocked, ""},
		"inside, no AllowPreflight": {inside(false), app, blocked, "", blocked, ""},
		"no CORS middleware":        {none, app, blocked, "", blocked, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			first := send(t, server, "", headers("")) // not a script, so that there is a nonce in each case
			require.Equal(t, http.StatusUnauthorized, first.StatusCode)

			what, answer := script(t, server, test.origin, headers(""))
			expect(t, "R037: a refused request", what, answer, test.refused, http.StatusUnauthorized, test.fields1)
			what, answer = script(t, server, test.origin, headers(first.Header.Get("DPoP-Nonce")))
			expect(t, "F12: a request that may pass", what, answer, test.passes, http.StatusOK, test.fields2)
		})
	}
}

func expect(t *testing.T, request, what string, answer *http.Response, want string, status int, fields string) {
	t.Helper()
	if what != want {
		t.Errorf("%s: %s; want: %s", request, what, want)
		return
	}
	if answer == nil {
		return
	}
	var got []string
	for _, name := range []string{"Date", "DPoP-Nonce", "WWW-Authenticate", "X-Total-Count"} {
		if answer.Header.Get(name) != "" {
			got = append(got, name)
		}
	}
	if answer.StatusCode != status || !slices.Equal(got, strings.Fields(fields)) {
		t.Errorf("%s: the script sees status %d and %q, want %d and %q", request, answer.StatusCode, got, status, strings.Fields(fields))
	}
}

// script does what a browser does for a script of origin that sends GET /orders with headers (Fetch §3.2, §4.8), and returns
// what becomes of it and, if the script sees the answer, that, with the fields that it may read.
func script(t *testing.T, server *httptest.Server, origin string, headers map[string]string) (string, *http.Response) {
	t.Helper()
	preflight := send(t, server, http.MethodOptions, map[string]string{
		"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,dpop",
	})
	asked := list(preflight, "Access-Control-Allow-Headers")
	if preflight.StatusCode/100 != 2 || !mayRead(preflight, origin) || !asked["authorization"] || !asked["dpop"] {
		return blocked, nil
	}
	headers["Origin"] = origin
	answer := send(t, server, http.MethodGet, headers)
	if !mayRead(answer, origin) {
		return hidden, nil
	}
	exposed := list(answer, "Access-Control-Expose-Headers")
	for name := range answer.Header {
		if !exposed[strings.ToLower(name)] { // nothing that this test looks at is readable without being exposed
			answer.Header.Del(name)
		}
	}
	return seen, answer
}

func mayRead(answer *http.Response, origin string) bool {
	return slices.Equal(answer.Header.Values("Access-Control-Allow-Origin"), []string{origin})
}

// list returns the elements of a field, in lower case, from all its lines.
func list(answer *http.Response, field string) map[string]bool {
	elements := map[string]bool{}
	for element := range strings.SplitSeq(strings.Join(answer.Header.Values(field), ","), ",") {
		elements[strings.ToLower(strings.TrimSpace(element))] = true
	}
	return elements
}

func send(t *testing.T, server *httptest.Server, method string, headers map[string]string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/orders", nil)
	require.NoError(t, err)
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	answer, err := server.Client().Do(r)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer
}
