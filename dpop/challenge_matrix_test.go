package dpop_test

// What a client hears, as one table: how it comes, what is wrong, and what is answered in each mode of the Verifier.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/replay"
)

const (
	matrixRealm    = `orders "and\more`
	matrixMetadata = "https://api.example.com/.well-known/oauth-protected-resource/v1"
)

// descriptions are the texts that clients may rely on. They are written out here so that a change is seen.
var descriptions = map[string]string{
	"invalid_request":         "The request must carry one access token, in one Authorization header field, and be addressed to this API",
	"invalid_token":           "The access token is invalid, expired, or not usable in this way",
	"invalid_dpop_proof":      "The DPoP proof is missing, invalid, already used, or not made for this request",
	"use_dpop_nonce":          "The DPoP proof must carry the nonce of the DPoP-Nonce header field",
	"insufficient_scope":      "The access token does not have the scope that this request needs",
	"temporarily_unavailable": "The request cannot be checked at the moment",
}

// A matter is one request of the matrix, which a row may change.
type matter struct {
	w      *world
	r      *http.Request
	source *nonce.Source
	token  *dpop.Token // what the request's token stands for
	scope  string      // what the handler requires
}

// prove puts a proof into the request, with a good nonce, but for these changes.
func (m *matter) prove(changes ...func(header, claims map[string]any)) {
	fresh := set("nonce", m.source.Issue("", now))
	m.r.Header.Set("DPoP", m.w.proof(append([]func(_, _ map[string]any){fresh}, changes...)...))
}

func (m *matter) authorize(lines ...string) { m.r.Header["Authorization"] = lines }

// The modes of the Verifier, in the order of the table's columns.
var modes = []struct {
	name          string
	bearer, nonce bool
}{{"DPoP only", false, false}, {"Bearer, too", true, false}, {"nonces", false, true}, {"Bearer, too, and nonces", true, true}}

// matrix says for each request what it is answered with in each mode: the status, then the challenges in their order, each
// with the error that stands in it. "200" is accepted, and no challenge at all is written as such.
var matrix = []struct {
	name  string
	do    func(*matter)
	cells [4]string
}{
	// No credentials, or none that are known here.
	{"R039 nothing", func(m *matter) { m.authorize(); m.r.Header.Del("DPoP") }, anonymous},
	{"R039 a proof alone", func(m *matter) { m.authorize() }, anonymous},
	{"R036 Proxy-Authorization", func(m *matter) { m.authorize(); m.r.Header.Set("Proxy-Authorization", "DPoP "+token) }, anonymous},
	{"R039 Basic", func(m *matter) { m.authorize("Basic YTpi") }, anonymous},

	// Requests that are malformed.
	{"two Authorization fields", func(m *matter) { m.authorize("DPoP "+token, "DPoP "+token) }, malformed},
	{"an empty Authorization field", func(m *matter) { m.authorize("") }, malformed},
	{"R162 a token in the query", func(m *matter) { m.r.URL.RawQuery = "access_token=" + token }, malformed},
	{"DPoP without a token", func(m *matter) { m.authorize("DPoP") }, malformed},
	{"Bearer without a token", func(m *matter) { m.authorize("Bearer ") }, [4]string{
		"400 DPoP:invalid_request", "400 DPoP Bearer:invalid_request", "400 DPoP:invalid_request", "400 DPoP Bearer:invalid_request"}},
	{"another host's target", func(m *matter) { m.r.Host = "" }, malformed},

	// Proofs.
	{"no proof", func(m *matter) { m.r.Header.Del("DPoP") }, badProof},
	{"two proofs", func(m *matter) { m.r.Header.Add("DPoP", m.r.Header.Get("DPoP")) }, badProof},
	{"a proof that is no JWT", func(m *matter) { m.r.Header.Set("DPoP", "\"x\"") }, badProof},
	{"typ", func(m *matter) { m.prove(setHeader("typ", "JWT")) }, badProof},
	{"alg", func(m *matter) { m.prove(setHeader("alg", "HS256")) }, badProof},
	{"jwk", func(m *matter) { m.prove(setHeader("jwk", nil)) }, badProof},
	{"htm", func(m *matter) { m.prove(set("htm", "POST")) }, badProof},
	{"htu", func(m *matter) { m.prove(set("htu", target+"0")) }, badProof},
	{"no ath", func(m *matter) { m.prove(set("ath", nil)) }, badProof},
	{"ath", func(m *matter) { m.prove(set("ath", hashOf("another"))) }, badProof},
	{"the signature", func(m *matter) {
		proof := m.r.Header.Get("DPoP")
		h, c, _ := segments(proof)
		m.r.Header.Set("DPoP", h+"."+c+"."+b64(make([]byte, 64)))
	}, badProof},
	{"a proof that was used", func(m *matter) {
		m.w.store.used = map[string]bool{replay.Key(m.w.key.JKT(), "used"): true}
		m.prove(set("jti", "used"))
	}, badProof},
	{"E05 iat an hour ago", func(m *matter) { m.prove(set("iat", now.Add(-time.Hour).Unix())) }, byIat},
	{"E05 iat in an hour", func(m *matter) { m.prove(set("iat", now.Add(time.Hour).Unix())) }, byIat},
	{"a store that lost its memory", func(m *matter) { m.w.store.err = replay.ErrStale }, [4]string{
		"401 DPoP:invalid_dpop_proof", "401 DPoP:invalid_dpop_proof Bearer", "401 DPoP:use_dpop_nonce", "401 DPoP:use_dpop_nonce Bearer"}},
	{"E01, R049 no nonce", func(m *matter) { m.prove(set("nonce", nil)) }, badNonce},
	{"E02, R049 a nonce of another server", func(m *matter) { m.prove(set("nonce", "another")) }, badNonce},
	{"E07 a nonce with CR and LF", func(m *matter) { m.prove(set("nonce", "\r\nX: y\"")) }, badNonce},

	// Tokens under DPoP.
	{"a token that no one knows", func(m *matter) { m.w.registry.tokens = nil }, badToken},
	{"a token that is over", func(m *matter) { m.token.Expiry = now }, badToken},
	{"another resource's token", func(m *matter) { resolverSays(dpop.ErrTokenAudience)(m.w) }, badToken},
	{"a token with a cnf that is not known", func(m *matter) { m.token.Confirmation = dpop.Confirmation{Unknown: true} }, badToken},
	{"an unbound token", func(m *matter) { m.token.Confirmation = dpop.Confirmation{} }, badToken},
	{"another key's token", func(m *matter) { m.token.Confirmation.JKT = thief().JKT() }, badToken},
	{"a token that needs a certificate, too", func(m *matter) { m.token.Confirmation.X5T = hashOf("certificate") }, badToken},

	// Tokens under Bearer. Where it is not taken, the error stands in the challenge that is left.
	{"D05 a bound token as Bearer", func(m *matter) { m.authorize("Bearer " + token); m.r.Header.Del("DPoP") }, badBearer},
	{"D06 a bound token as Bearer, with its proof", func(m *matter) { m.authorize("Bearer " + token) }, badBearer},
	{"D06 the same, bEARER", func(m *matter) { m.authorize("bEARER " + token) }, badBearer},
	{"D08 an unbound token as Bearer, with a proof", func(m *matter) { m.bearer(); m.prove() }, badBearer},
	{"an unbound token as Bearer", func(m *matter) { m.bearer() }, [4]string{
		"401 DPoP:invalid_token", "200", "401 DPoP:invalid_token", "200"}},
	{"a token that no one knows as Bearer", func(m *matter) { m.bearer(); m.w.registry.tokens = nil }, badBearer},
	{"a token that is over as Bearer", func(m *matter) { m.bearer(); m.token.Expiry = now }, badBearer},
	{"a certificate-bound token", func(m *matter) { m.bearer(); m.bind("certificate") }, [4]string{"200", "200", "200", "200"}},
	{"another certificate's token", func(m *matter) { m.bearer(); m.bind("another") }, badBearer},
	{"a certificate-bound token without one", func(m *matter) { m.bearer(); m.bind("certificate"); m.r.TLS = nil }, badBearer},

	// What is nobody's fault but ours.
	{"the resolver cannot tell", func(m *matter) { resolverSays(errors.New("down"))(m.w) }, unavailable},
	{"the store cannot tell", func(m *matter) { m.w.store.err = errors.New("down") }, unavailable},
	{"the store is full", func(m *matter) { m.w.store.err = replay.ErrFull }, unavailable},
	{"the resolver cannot tell, under Bearer", func(m *matter) { m.bearer(); resolverSays(errors.New("down"))(m.w) }, [4]string{
		"401 DPoP:invalid_token", "503", "401 DPoP:invalid_token", "503"}},

	// What is accepted, and scopes.
	{"nothing is wrong", func(*matter) {}, [4]string{"200", "200", "200", "200"}},
	{"a scope is missing", func(m *matter) { m.scope = "orders:admin" }, [4]string{
		"403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope"}},
	{"a scope is missing, under Bearer", func(m *matter) { m.bearer(); m.scope = "orders:admin" }, [4]string{
		"401 DPoP:invalid_token", "403 DPoP Bearer:insufficient_scope", "401 DPoP:invalid_token", "403 DPoP Bearer:insufficient_scope"}},
	{"a scope that must be escaped", func(m *matter) { m.scope = `a"b\c` }, [4]string{
		"403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope"}},
	{"F01 a scope that no field can hold", func(m *matter) { m.scope = "a\r\nSet-Cookie: b" }, [4]string{
		"403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope", "403 DPoP:insufficient_scope"}},
}

// The rows that many requests have.
var (
	anonymous   = [4]string{"401 DPoP", "401 DPoP Bearer", "401 DPoP", "401 DPoP Bearer"}
	malformed   = [4]string{"400 DPoP:invalid_request", "400 DPoP:invalid_request Bearer", "400 DPoP:invalid_request", "400 DPoP:invalid_request Bearer"}
	badProof    = [4]string{"401 DPoP:invalid_dpop_proof", "401 DPoP:invalid_dpop_proof Bearer", "401 DPoP:invalid_dpop_proof", "401 DPoP:invalid_dpop_proof Bearer"}
	byIat       = [4]string{"401 DPoP:invalid_dpop_proof", "401 DPoP:invalid_dpop_proof Bearer", "200", "200"}
	badNonce    = [4]string{"200", "200", "401 DPoP:use_dpop_nonce", "401 DPoP:use_dpop_nonce Bearer"}
	badToken    = [4]string{"401 DPoP:invalid_token", "401 DPoP:invalid_token Bearer", "401 DPoP:invalid_token", "401 DPoP:invalid_token Bearer"}
	badBearer   = [4]string{"401 DPoP:invalid_token", "401 DPoP Bearer:invalid_token", "401 DPoP:invalid_token", "401 DPoP Bearer:invalid_token"}
	unavailable = [4]string{"503", "503", "503", "503"}
)

// bearer makes the request one with an unbound token under Bearer.
func (m *matter) bearer() {
	m.authorize("Bearer " + token)
	m.r.Header.Del("DPoP")
	m.token.Confirmation = dpop.Confirmation{}
}

// bind binds the token to a certificate; the request has the one that is called certificate.
func (m *matter) bind(certificate string) {
	m.token.Confirmation.X5T = hashOf(certificate)
	m.r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte("certificate")}}}
}

// R034, R040, R043, R048, R135: every row of the matrix in every mode: the status, each challenge to the last character and as
// a strict parser reads it, the body, and the fields beside.
func TestChallengeMatrix(t *testing.T) {
	for _, row := range matrix {
		for i, mode := range modes {
			t.Run(row.name+", "+mode.name, func(t *testing.T) {
				m := newMatter(t, mode.bearer, mode.nonce)
				row.do(m)
				checkAnswer(t, m, m.answer(t), row.cells[i])
			})
		}
	}
}

func newMatter(t *testing.T, bearer, withNonce bool) *matter {
	t.Helper()
	m := &matter{source: newNonces(t, nonce.Config{}, "secret"), r: httptest.NewRequest("GET", target, nil), scope: "orders:read"}
	m.w = newWorld(t, func(c *dpop.Config) {
		c.Realm, c.ResourceMetadata = matrixRealm, matrixMetadata
		if bearer {
			allowBearer(c)
		}
		if withNonce {
			c.Nonces = m.source
		}
	})
	m.token = m.w.registry.tokens[token]
	m.authorize("DPoP " + token)
	m.prove()
	return m
}

// answer returns what the request is answered with, by Verify and by the handler behind it.
func (m *matter) answer(t *testing.T) *httptest.ResponseRecorder {
	t.Helper()
	uri := target
	if m.r.Host == "" {
		uri = ""
	}
	answer := httptest.NewRecorder()
	result, err := m.w.verifier.Verify(context.Background(), dpop.RequestFromHTTP(m.r, uri))
	if err == nil {
		err = result.Require(m.scope)
	}
	if err != nil {
		dpop.WriteError(answer, err)
	}
	return answer
}

// checkAnswer compares an answer with a cell of the matrix.
func checkAnswer(t *testing.T, m *matter, answer *httptest.ResponseRecorder, cell string) {
	t.Helper()
	status, schemes, _ := strings.Cut(cell, " ")
	if got := fmt.Sprint(answer.Code); got != status {
		t.Errorf("the status is %s, want %s", got, status)
	}
	var want []string
	code := map[string]string{"503": "temporarily_unavailable"}[status]
	for _, scheme := range strings.Fields(schemes) {
		scheme, failed, _ := strings.Cut(scheme, ":")
		if failed != "" {
			code = failed
		}
		want = append(want, challenge(scheme, failed, m.scope))
	}
	got := answer.Header().Values("WWW-Authenticate")
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("the challenges are\n%q\nwant\n%q", got, want)
	}
	for i, line := range got {
		scheme, params, err := parseChallenge(line)
		if err != nil {
			t.Errorf("R034 the challenge %s: %v", line, err)
			continue
		}
		wantParams := map[string]string{"realm": matrixRealm, "resource_metadata": matrixMetadata}
		if scheme == "DPoP" {
			wantParams["algs"] = "ES256 EdDSA PS256"
		}
		if strings.Contains(strings.Fields(schemes)[i], ":") {
			wantParams["error"], wantParams["error_description"] = code, descriptions[code]
			if code == "insufficient_scope" && !strings.Contains(m.scope, "\n") {
				wantParams["scope"] = m.scope
			}
		}
		if !maps.Equal(params, wantParams) {
			t.Errorf("R034, R135 the challenge %s says %q, want %q", scheme, params, wantParams)
		}
	}
	if status == "200" {
		return
	}
	body := ""
	if code != "" {
		text, err := json.Marshal(struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}{code, descriptions[code]})
		require.NoError(t, err)
		body = string(text) + "\n"
	}
	if got := answer.Body.String(); got != body {
		t.Errorf("the body is %q, want %q", got, body)
	}
	nonces := 0
	if code == "use_dpop_nonce" {
		nonces = 1
	}
	if got := answer.Header().Values("DPoP-Nonce"); len(got) != nonces || nonces == 1 && got[0] != m.source.Issue("", now) {
		t.Errorf("R043 the DPoP-Nonce fields are %q, want %d", got, nonces)
	}
	if got := answer.Header().Values("Cache-Control"); len(got) != 1 || got[0] != "no-store" {
		t.Errorf("R048 Cache-Control is %q, want no-store", got)
	}
}

// challenge writes the value that is expected for a scheme; failed is the error that stands in it, if any.
func challenge(scheme, failed, scope string) string {
	c := scheme + ` realm="orders \"and\\more"`
	if failed != "" {
		c += fmt.Sprintf(`, error="%s", error_description="%s"`, failed, descriptions[failed])
	}
	if failed == "insufficient_scope" && !strings.Contains(scope, "\n") {
		c += `, scope="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(scope) + `"`
	}
	if scheme == "DPoP" {
		c += `, algs="ES256 EdDSA PS256"`
	}
	return c + `, resource_metadata="` + matrixMetadata + `"`
}

// Every code that a client can be told stands in the matrix, and so does every status.
func TestTheMatrixIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range matrix {
		for _, cell := range row.cells {
			status, schemes, _ := strings.Cut(cell, " ")
			seen[status] = true
			for _, scheme := range strings.Fields(schemes) {
				_, code, _ := strings.Cut(scheme, ":")
				seen[code] = true
			}
		}
	}
	for _, want := range append([]string{"200", "400", "401", "403", "503"}, slices.Collect(maps.Keys(descriptions))...) {
		if !seen[want] && want != "temporarily_unavailable" { // which stands in no challenge
			t.Errorf("no row of the matrix leads to %s", want)
		}
	}
}

// parseChallenge reads a field line that holds one challenge, by the grammar of RFC 9110 §11.2, §11.6.1 and §5.6, without any of
// the tolerance that recipients may have: a scheme, one space, and parameters, each once, as in RFC 6750 §3 and RFC 9449 §7.1:
// quoted-strings, with characters of RFC 6750 §3 where that names them.
func parseChallenge(line string) (scheme string, params map[string]string, err error) {
	scheme, rest := cutToken(line)
	if scheme == "" {
		return "", nil, errors.New("it does not begin with a scheme")
	}
	params = map[string]string{}
	for first := true; rest != "" || first; first = false {
		separator := ", "
		if first {
			separator = " "
		}
		var ok bool
		if rest, ok = strings.CutPrefix(rest, separator); !ok {
			return "", nil, fmt.Errorf("%q does not begin with %q", rest, separator)
		}
		var name, value string
		name, rest = cutToken(rest)
		if name == "" || !strings.HasPrefix(rest, `="`) {
			return "", nil, fmt.Errorf("%q is no parameter with a quoted value", name+rest)
		}
		if value, rest, err = cutQuoted(rest[1:]); err != nil {
			return "", nil, err
		}
		if _, twice := params[strings.ToLower(name)]; twice {
			return "", nil, fmt.Errorf("there are two parameters %s", name)
		}
		if name != "realm" && name != "scope" && strings.ContainsAny(value, `"\`) {
			return "", nil, fmt.Errorf("%s has a character that RFC 6750 §3 does not allow", name)
		}
		params[strings.ToLower(name)] = value
	}
	return scheme, params, nil
}

// cutToken returns the token (RFC 9110 §5.6.2) that s begins with, and what follows.
func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutQuoted returns the value of the quoted-string (RFC 9110 §5.6.4) that s begins with, and what follows. Only what must be
// escaped may be.
func cutQuoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c < ' ' || c > '~':
			return "", "", fmt.Errorf("%q has a character that is not printable ASCII", s)
		case c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case c == '\\':
			return "", "", fmt.Errorf("%q has an escape that is none", s)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("%q does not end", s)
}

// The control: the parser refuses what is no challenge, or not as strict as it can be.
func TestTheParserIsStrict(t *testing.T) {
	for line, want := range map[string]string{
		`DPoP algs="ES256"`: "DPoP map[algs:ES256]",
		`Bearer realm="a \"b\\", error="x", scope="c d"`: `Bearer map[error:x realm:a "b\ scope:c d]`,
		`DPoP a="", b=""`:             "DPoP map[a: b:]",
		``:                            "",
		`DPoP`:                        "",
		`DPoP `:                       "",
		` DPoP a="b"`:                 "",
		`DPoP  a="b"`:                 "",
		`DPoP a=b`:                    "",
		`DPoP a`:                      "",
		`DPoP ="b"`:                   "",
		`DPoP a ="b"`:                 "",
		`DPoP a="b`:                   "",
		`DPoP a="b\`:                  "",
		`DPoP a="b\"`:                 "",
		`DPoP a="b" c="d"`:            "",
		`DPoP a="b",c="d"`:            "",
		`DPoP a="b" , c="d"`:          "",
		`DPoP a="b", `:                "",
		`DPoP a="b",`:                 "",
		`DPoP a="b", a="c"`:           "",
		`DPoP a="b", A="c"`:           "",
		`DPoP a="b", Bearer`:          "",
		`DPoP a="b", Bearer a="c"`:    "",
		`DPoP a="b"c`:                 "",
		`DPoP a="b""`:                 "",
		`DPoP a="\b"`:                 "",
		`DPoP error="a\"b"`:           "",
		"DPoP a=\"b\r\nX: y\"":        "",
		"DPoP a=\"b\x00\"":            "",
		"DPoP a=\"\xc3\xa9\"":         "",
		"DPoP a=\"b\x7f\"":            "",
		"DPoP\ta=\"b\"":               "",
		`DPoP eyJ0b2tlbjY4Ijp0cnVlfQ`: "",
	} {
		scheme, params, err := parseChallenge(line)
		if got := fmt.Sprint(scheme, " ", params); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%q is read as %s (%v), want %q", line, got, err, want)
		}
	}
}

// What an operator reads while clients move from bearer tokens to DPoP: how many requests came under each scheme, and whose
// the last ones without a key are. See docs/rollout.md.
func ExampleRequestVerifier() {
	verifier, err := dpop.NewVerifier(dpop.Config{
		// A resolver and a store for this example alone.
		Resolver: dpop.TokenResolverFunc(func(context.Context, string) (*dpop.Token, error) {
			return &dpop.Token{ClientID: "old-app"}, nil
		}),
		Replay:      new(memory),
		AllowBearer: func() bool { return true },
	})
	if err != nil {
		panic(err)
	}
	counted := &counter{RequestVerifier: verifier, bearer: map[string]int{}}
	for range 2 {
		_, _ = counted.Verify(context.Background(), dpop.Request{
			Method: "GET", URI: "https://api.example.com/", Authorization: []string{"Bearer a-token"},
		})
	}
	fmt.Println("bound:", counted.bound, "bearer:", counted.bearer)
	// Output: bound: 0 bearer: map[old-app:2]
}

// A counter counts what a RequestVerifier accepts. It stands in the place of the Verifier, as in dpophttp.New(counted, …).
type counter struct {
	dpop.RequestVerifier

	mu     sync.Mutex
	bound  int
	bearer map[string]int // by client
}

func (c *counter) Verify(ctx context.Context, req dpop.Request) (*dpop.Result, error) {
	result, err := c.RequestVerifier.Verify(ctx, req)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if result.SenderConstrained() {
		c.bound++
	} else {
		c.bearer[result.Token.ClientID]++
	}
	return result, nil
}
