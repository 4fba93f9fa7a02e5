package dpop_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/replay"
)

func TestReasonIs(t *testing.T) {
	for _, tt := range []struct {
		reason dpop.Reason
		target error
		want   bool
	}{
		{dpop.ErrTokenExpired, dpop.ErrTokenExpired, true},
		{dpop.ErrTokenExpired, dpop.ErrTokenInvalid, true},
		{dpop.ErrTokenInvalid, dpop.ErrTokenExpired, false},
		{dpop.ErrTokenHashMissing, dpop.ErrTokenHashMismatch, true},
		{dpop.ErrNonceStale, dpop.ErrNonceInvalid, true},
		{dpop.ErrReplayFull, dpop.ErrUnavailable, true},
		{dpop.ErrReplayFull, dpop.ErrReplayUnavailable, false}, // replay_full is no form of replay: there is no dot between
		{dpop.Reason("token_invalid.a.b"), dpop.Reason("token_invalid.a"), true},
		{dpop.Reason("token_invalidated"), dpop.ErrTokenInvalid, false},
		{dpop.ErrTokenInvalid, dpop.Reason(""), false},
		{dpop.ErrTokenInvalid, errors.New("token_invalid"), false},
	} {
		if got := errors.Is(tt.reason, tt.target); got != tt.want {
			t.Errorf("errors.Is(%q, %q) = %v", tt.reason, tt.target, got)
		}
	}
}

func TestErrorUnwraps(t *testing.T) {
	cause := errors.New("cause")
	e := &dpop.Error{Reason: dpop.ErrTokenAudience, Err: fmt.Errorf("aud: %w", cause)}
	for _, target := range []error{dpop.ErrTokenAudience, dpop.ErrTokenInvalid, cause} {
		if !errors.Is(e, target) {
			t.Errorf("errors.Is does not find %v", target)
		}
	}
	if errors.Is(e, dpop.ErrTokenIssuer) {
		t.Error("errors.Is finds another reason")
	}
	var reason dpop.Reason
	if !errors.As(e, &reason) || reason != dpop.ErrTokenAudience {
		t.Errorf("errors.As finds the reason %q", reason)
	}
	if got := e.Error(); got != "dpop: token_invalid.audience: aud: cause" {
		t.Errorf("Error() = %q", got)
	}
	if got := (&dpop.Error{Reason: dpop.ErrProofReplayed}).Error(); got != "dpop: proof_replayed" {
		t.Errorf("Error() = %q", got)
	}
}

// The answer to each kind of refusal, to the last byte. R034, R039, R040, R049, R065, E01, E09.
func TestWriteError(t *testing.T) {
	const algs = `algs="ES256 EdDSA PS256"`
	const noProof = `error="invalid_dpop_proof", error_description="The DPoP proof is missing, invalid, already used, or not made for this request"`
	const noToken = `error="invalid_token", error_description="The access token is invalid, expired, or not usable in this way"`
	const noRequest = `error="invalid_request", error_description="The request must carry one access token, in one Authorization header field, and be addressed to this API"`
	for name, tt := range map[string]struct {
		fault   string // a row of faults
		config  func(*dpop.Config)
		status  int
		headers http.Header
		body    string
	}{
		"R039 no credentials": {"no Authorization", nil, 401, http.Header{
			"Www-Authenticate": {"DPoP " + algs}}, ""},
		"R039 no credentials, with Bearer": {"no Authorization", allowBearer, 401, http.Header{
			"Www-Authenticate": {"DPoP " + algs, "Bearer"}}, ""},
		"realm and metadata": {"no Authorization", func(c *dpop.Config) {
			c.Realm, c.ResourceMetadata = `a "quoted\ realm`, "https://api.example.com/.well-known/oauth-protected-resource"
			allowBearer(c)
		}, 401, http.Header{"Www-Authenticate": {
			`DPoP realm="a \"quoted\\ realm", ` + algs + `, resource_metadata="https://api.example.com/.well-known/oauth-protected-resource"`,
			`Bearer realm="a \"quoted\\ realm", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource"`}}, ""},
		"R065 a bad proof": {"two proofs", nil, 401, http.Header{
			"Www-Authenticate": {"DPoP " + noProof + ", " + algs}},
			`{"error":"invalid_dpop_proof","error_description":"The DPoP proof is missing, invalid, already used, or not made for this request"}`},
		"R040 a bad proof, with Bearer": {"two proofs", allowBearer, 401, http.Header{
			"Www-Authenticate": {"DPoP " + noProof + ", " + algs, "Bearer"}},
			`{"error":"invalid_dpop_proof","error_description":"The DPoP proof is missing, invalid, already used, or not made for this request"}`},
		"a bad token": {"a token that no one knows", nil, 401, http.Header{
			"Www-Authenticate": {"DPoP " + noToken + ", " + algs}},
			`{"error":"invalid_token","error_description":"The access token is invalid, expired, or not usable in this way"}`},
		"D05 R040 a bound token as Bearer": {"the token as Bearer, where Bearer is taken", nil, 401, http.Header{
			"Www-Authenticate": {"DPoP " + algs, "Bearer " + noToken}},
			`{"error":"invalid_token","error_description":"The access token is invalid, expired, or not usable in this way"}`},
		"D05 Bearer where it is not taken": {"the token as Bearer", nil, 401, http.Header{
			"Www-Authenticate": {"DPoP " + noToken + ", " + algs}},
			`{"error":"invalid_token","error_description":"The access token is invalid, expired, or not usable in this way"}`},
		"a malformed request": {"two Authorization fields", nil, 400, http.Header{
			"Www-Authenticate": {"DPoP " + noRequest + ", " + algs}},
			`{"error":"invalid_request","error_description":"The request must carry one access token, in one Authorization header field, and be addressed to this API"}`},
		"R049 a nonce": {"no nonce", nil, 401, http.Header{
			"Www-Authenticate": {`DPoP error="use_dpop_nonce", error_description="The DPoP proof must carry the nonce of the DPoP-Nonce header field", ` + algs},
			"Dpop-Nonce":       {"fresh-nonce"}},
			`{"error":"use_dpop_nonce","error_description":"The DPoP proof must carry the nonce of the DPoP-Nonce header field"}`},
		"C15 cannot tell": {"the store cannot tell", nil, 503, http.Header{},
			`{"error":"temporarily_unavailable","error_description":"The request cannot be checked at the moment"}`},
		"C15 cannot tell for 7 s": {"the store says when to come again", nil, 503, http.Header{"Retry-After": {"7"}},
			`{"error":"temporarily_unavailable","error_description":"The request cannot be checked at the moment"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := faults[tt.fault]
			w := newWorld(t)
			proof := w.proof()
			if f.proof != nil {
				proof = w.proof(f.proof)
			}
			w.verifier = w.newVerifier(func(c *dpop.Config) {
				for _, change := range []func(*dpop.Config){f.config, tt.config} {
					if change != nil {
						change(c)
					}
				}
			})
			if f.world != nil {
				f.world(w)
			}
			req := request(proof)
			if f.request != nil {
				f.request(&req, proof)
			}
			e := w.verify(req)
			wantReason(t, e, f.reason)

			recorder := httptest.NewRecorder()
			dpop.WriteError(recorder, e)
			if recorder.Code != tt.status {
				t.Errorf("status %d, want %d", recorder.Code, tt.status)
			}
			tt.headers.Set("Cache-Control", "no-store")
			if tt.body != "" {
				tt.headers.Set("Content-Type", "application/json")
			}
			for name := range recorder.Header() {
				if _, ok := tt.headers[name]; !ok {
					t.Errorf("unexpected field %s: %q", name, recorder.Header()[name])
				}
			}
			for name, want := range tt.headers {
				if got := recorder.Header()[name]; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
					t.Errorf("%s is\n%q\nwant\n%q", name, got, want)
				}
			}
			if got := strings.TrimSpace(recorder.Body.String()); got != tt.body {
				t.Errorf("body %s, want %s", got, tt.body)
			}
		})
	}
}

func TestWriteErrorRoundsRetryAfterUp(t *testing.T) {
	for after, want := range map[time.Duration]string{
		0: "", -time.Second: "", 1: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Hour: "3600",
	} {
		recorder := httptest.NewRecorder()
		dpop.WriteError(recorder, &dpop.Error{Code: dpop.CodeTemporarilyUnavailable, Status: 503, RetryAfter: after})
		if got := recorder.Header().Get("Retry-After"); got != want {
			t.Errorf("for %v Retry-After is %q, want %q", after, got, want)
		}
	}
}

// R043: whatever stood there before, there is one DPoP-Nonce, and only our challenges.
func TestR043WriteErrorReplacesFields(t *testing.T) {
	recorder := httptest.NewRecorder()
	recorder.Header().Set("DPoP-Nonce", "old")
	recorder.Header().Set("WWW-Authenticate", "Basic")
	recorder.Header().Set("Cache-Control", "public")
	recorder.Header().Set("Content-Length", "5")
	dpop.WriteError(recorder, &dpop.Error{Code: dpop.CodeUseNonce, Status: 401, Nonce: "new", Challenges: []string{"DPoP"}})
	for name, want := range map[string]string{"Dpop-Nonce": "new", "Www-Authenticate": "DPoP", "Cache-Control": "no-store"} {
		if got := recorder.Header()[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q alone", name, got, want)
		}
	}
	if got := recorder.Header()["Content-Length"]; got != nil {
		t.Errorf("Content-Length is %q, of another body", got)
	}
}

// An error that is not a refusal is answered with 500 and says nothing; so is one that no one can answer with.
func TestWriteErrorOfAnotherError(t *testing.T) {
	for name, err := range map[string]error{
		"another error":       errors.New("secret detail"),
		"none":                nil,
		"a nil *Error":        (*dpop.Error)(nil),
		"an *Error by hand":   &dpop.Error{Reason: dpop.ErrTokenInvalid, Err: errors.New("secret detail")},
		"an absurd status":    &dpop.Error{Status: 7},
		"a status of success": &dpop.Error{Status: 200, Code: dpop.CodeInvalidToken},
	} {
		recorder := httptest.NewRecorder()
		dpop.WriteError(recorder, err)
		if recorder.Code != 500 {
			t.Errorf("%s: status %d, want 500", name, recorder.Code)
		}
		if got := recorder.Body.String(); strings.Contains(got, "secret") || strings.Contains(got, "token") {
			t.Errorf("%s: body %q", name, got)
		}
	}
	recorder := httptest.NewRecorder()
	dpop.WriteError(recorder, fmt.Errorf("wrapped: %w", &dpop.Error{Status: 403, Code: dpop.CodeInsufficientScope}))
	if recorder.Code != 403 {
		t.Errorf("a wrapped *Error is answered with %d, want its own 403", recorder.Code)
	}
}

// Over a real connection: a HEAD has no body, and the fields are what the client sees.
func TestWriteErrorOverHTTP(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, err := w.verifier.Verify(r.Context(), dpop.RequestFromHTTP(r, target))
		dpop.WriteError(rw, err)
	}))
	defer server.Close()
	for _, method := range []string{"GET", "HEAD", "POST"} {
		req, err := http.NewRequest(method, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "DPoP "+token)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || len(resp.Header.Values("WWW-Authenticate")) != 1 {
			t.Errorf("%s: status %d, challenges %q", method, resp.StatusCode, resp.Header.Values("WWW-Authenticate"))
		}
	}
}

// R141, F01: nothing that the client sent stands in an answer, however it is spelled.
func TestF01NothingOfTheClientComesBack(t *testing.T) {
	const evil = "evil\"\\\r\nSet-Cookie: a=b<script>"
	w := newWorld(t, withNonces)
	v := w.newVerifier()
	for name, req := range map[string]dpop.Request{
		"htm":                    request(w.proof(set("htm", evil))),
		"htu":                    request(w.proof(set("htu", "https://api.example.com/"+evil))),
		"htu, a path":            request(w.proof(set("htu", "https://api.example.com/evil"))),
		"typ":                    request(w.proof(setHeader("typ", evil))),
		"alg":                    request(w.proof(setHeader("alg", evil))),
		"jwk":                    request(w.proof(setHeader("jwk", map[string]string{"kty": evil}))),
		"jti":                    request(w.proof(set("jti", strings.Repeat(evil, 20)))),
		"iat":                    request(w.proof(set("iat", evil))),
		"nonce":                  request(w.proof(set("nonce", evil))),
		"ath":                    request(w.proof(set("ath", evil))),
		"a member's name, twice": request(w.forgeJSON(`{"`+`evil":1,"evil":2}`, `{}`)),
		"method":                 {Method: evil, URI: target, Authorization: []string{"DPoP " + token}, DPoP: []string{w.proof()}},
		"URI":                    {Method: "GET", URI: "https://api.example.com/" + evil, Authorization: []string{"DPoP " + token}, DPoP: []string{w.proof()}},
		"Authorization":          {Method: "GET", URI: target, Authorization: []string{"DPoP " + evil}},
		"scheme":                 {Method: "GET", URI: target, Authorization: []string{evil}},
		"DPoP":                   request(evil),
	} {
		verifier := v
		if name == "nonce" {
			verifier = w.verifier
		}
		e := refusal(t, verifier, req)
		if e == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		recorder := httptest.NewRecorder()
		dpop.WriteError(recorder, e)
		answer := fmt.Sprint(recorder.Header(), recorder.Body, e.Challenges, e.Nonce, e.Code)
		if strings.Contains(answer, "evil") || strings.ContainsAny(answer, "\r<") {
			t.Errorf("%s: the answer holds what the client sent: %s", name, answer)
		}
		// In a log it may stand, quoted and cut: no line of a record begins with what a client chose.
		if detail := e.LogValue().String(); strings.ContainsAny(detail, "\r\n") || len(detail) > 1000 {
			t.Errorf("%s: the record is not one short line: %q", name, detail)
		}
	}
}

// What the operator reads: the htu that was expected and the one that came, without queries, and the likely cause.
func TestLogValueOfAnotherURI(t *testing.T) {
	const api = "https://api.example.com"
	for name, tt := range map[string]struct {
		request, htu string
		want         []string
	}{
		"the scheme":          {api + "/a", "http://api.example.com/a", []string{`made for "http"`, "configured for https"}},
		"the host":            {api + "/a", "https://www.example.com/a", []string{"host", `"https://www.example.com/a"`, `"https://api.example.com/a"`}},
		"an IPv6 host":        {"https://[::1]:8443/a", "https://[::2]:8443/a", []string{"host that is not"}},
		"the port":            {api + ":8443/a", api + "/a", []string{"port"}},
		"an IPv6 host's port": {"https://[::1]:8443/a", "https://[::1]:8444/a", []string{"port"}},
		"a prefix stripped":   {api + "/orders", api + "/v1/orders", []string{"strip a path prefix"}},
		"a prefix too many":   {api + "/v1/orders", api + "/orders", []string{"prefix", "not to be part"}},
		"a slash at the end":  {api + "/orders", api + "/orders/", []string{"slash at the end"}},
		"case":                {api + "/orders", api + "/Orders", []string{"differ in case"}},
		"another path":        {api + "/orders", api + "/users", []string{"another path"}},
		"no URI":              {api + "/orders", "/orders", []string{"htu is not an absolute URI"}},
		"queries stay out":    {api + "/a?code=secret", api + "/b?code=secret", []string{`"https://api.example.com/a"`, `"https://api.example.com/b"`}},
		"long ones are cut":   {api + "/a", api + "/" + strings.Repeat("b", 5000), []string{"bbb\"…"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			req := request(w.proof(set("htu", tt.htu)))
			req.URI = tt.request
			e := w.verify(req)
			wantReason(t, e, dpop.ErrURIMismatch)
			record := e.LogValue().String()
			for _, want := range append(tt.want, "htu_mismatch", "invalid_dpop_proof", "401") {
				if !strings.Contains(record, want) {
					t.Errorf("the record does not say %q:\n%s", want, record)
				}
			}
			if strings.Contains(record, "secret") || len(record) > 800 {
				t.Errorf("the record holds a query, or is long:\n%s", record)
			}
		})
	}
}

// The detail of each other reason says what was expected and what came.
func TestLogValueDetails(t *testing.T) {
	for fault, want := range map[string][]string{
		"two Authorization fields":          {"2 Authorization fields"},
		"no proof":                          {"no DPoP field"},
		"two proofs":                        {"2 DPoP fields"},
		"typ":                               {"typ is not dpop+jwt"},
		"alg":                               {`"HS256"`, "ES256, EdDSA, PS256"},
		"jwk":                               {"no jwk"},
		"htm":                               {`"GET"`, `"POST"`},
		"no ath":                            {"needs ath"},
		"ath of another token":              {"another access token"},
		"another key's token":               {thief().JKT(), keys()["ES256"].JKT()},
		"a target that is not ours":         {"none of the configured origins"},
		"the store says when to come again": {"down"},
	} {
		t.Run(fault, func(t *testing.T) {
			f := faults[fault]
			w := newWorld(t)
			proof := w.proof()
			if f.proof != nil {
				proof = w.proof(f.proof)
			}
			if f.world != nil {
				f.world(w)
			}
			req := request(proof)
			if f.request != nil {
				f.request(&req, proof)
			}
			e := w.verify(req)
			wantReason(t, e, f.reason)
			for _, part := range want {
				if record := e.LogValue().String(); !strings.Contains(record, part) {
					t.Errorf("the record does not say %q: %s", part, record)
				}
			}
		})
	}
}

// An error of the store that is none of the known ones is not mistaken for one.
func TestStoreErrorsAreToldApart(t *testing.T) {
	for err, want := range map[error]dpop.Reason{
		errors.New("x"):       dpop.ErrReplayUnavailable,
		replay.ErrFull:        dpop.ErrReplayFull,
		replay.ErrStale:       dpop.ErrProofStale,
		&replay.Unavailable{}: dpop.ErrReplayUnavailable,
		errors.Join(errors.New("x"), replay.ErrStale): dpop.ErrProofStale,
		&replay.Unavailable{Err: replay.ErrStale}:     dpop.ErrReplayUnavailable,
		&replay.Unavailable{Err: replay.ErrFull}:      dpop.ErrReplayFull,
	} {
		w := newWorld(t)
		w.store.err = err
		wantReason(t, w.verify(request(w.proof())), want)
	}
}
