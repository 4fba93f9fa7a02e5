package dpop_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/senderbound/senderbound/dpop"
)

func TestAuthorization(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  dpop.Reason
	}{
		"DPoP":                                {[]string{"DPoP " + token}, ""},
		"D12 R140 dpop":                       {[]string{"dpop " + token}, ""},
		"D12 R140 DPOP":                       {[]string{"DPOP " + token}, ""},
		"D12 R140 dPoP":                       {[]string{"dPoP " + token}, ""},
		"D12 two spaces":                      {[]string{"DPoP  " + token}, ""},
		"D12 a tab":                           {[]string{"DPoP\t" + token}, dpop.ErrMalformedAuthorization},
		"D12 a space and a tab":               {[]string{"DPoP \t" + token}, dpop.ErrMalformedAuthorization},
		"D12 no space":                        {[]string{"DPoP" + token}, dpop.ErrUnsupportedScheme},
		"a space before":                      {[]string{" DPoP " + token}, dpop.ErrMalformedAuthorization},
		"a space after":                       {[]string{"DPoP " + token + " "}, dpop.ErrMalformedAuthorization},
		"a colon":                             {[]string{"DPoP: " + token}, dpop.ErrUnsupportedScheme},
		"the scheme alone":                    {[]string{"DPoP"}, dpop.ErrMalformedAuthorization},
		"the scheme and a space":              {[]string{"DPoP "}, dpop.ErrMalformedAuthorization},
		"nothing but padding":                 {[]string{"DPoP =="}, dpop.ErrMalformedAuthorization},
		"padding inside":                      {[]string{"DPoP a=b"}, dpop.ErrMalformedAuthorization},
		"auth-params":                         {[]string{`DPoP token="abc"`}, dpop.ErrMalformedAuthorization},
		"a quote":                             {[]string{`DPoP "` + token + `"`}, dpop.ErrMalformedAuthorization},
		"CR and LF":                           {[]string{"DPoP abc\r\ndef"}, dpop.ErrMalformedAuthorization},
		"NUL":                                 {[]string{"DPoP abc\x00"}, dpop.ErrMalformedAuthorization},
		"a character that is not ASCII":       {[]string{"DPoP abcé"}, dpop.ErrMalformedAuthorization},
		"an empty line":                       {[]string{""}, dpop.ErrMalformedAuthorization},
		"a space":                             {[]string{" "}, dpop.ErrMalformedAuthorization},
		"D09 R143 two lines":                  {[]string{"DPoP " + token, "DPoP " + token}, dpop.ErrMalformedAuthorization},
		"D09 two schemes":                     {[]string{"DPoP " + token, "Bearer " + token}, dpop.ErrMalformedAuthorization},
		"D09 the second line empty":           {[]string{"DPoP " + token, ""}, dpop.ErrMalformedAuthorization},
		"D09 a list":                          {[]string{"DPoP " + token + ", Bearer " + token}, dpop.ErrMalformedAuthorization},
		"D09 a list without space":            {[]string{"DPoP,Bearer " + token}, dpop.ErrMalformedAuthorization},
		"D09 a list that begins with another": {[]string{"Basic YTpi, DPoP " + token}, dpop.ErrMalformedAuthorization},
		"D09 two tokens":                      {[]string{"DPoP " + token + " " + token}, dpop.ErrMalformedAuthorization},
		"D09 two schemes, one token":          {[]string{"DPoP Bearer " + token}, dpop.ErrMalformedAuthorization},
		"Basic":                               {[]string{"Basic YTpi"}, dpop.ErrUnsupportedScheme},
		"R039 none":                           {nil, dpop.ErrNoCredentials},
		"F05 a token of 17 KiB":               {[]string{"DPoP " + strings.Repeat("a", 17<<10)}, dpop.ErrMalformedAuthorization},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			req := request(w.proof())
			req.Authorization = tt.lines
			e := w.verify(req)
			wantReason(t, e, tt.want)
			if e != nil && w.registry.calls+w.store.calls != 0 {
				t.Error("the resolver or the store was asked")
			}
		})
	}
}

// Every token68 of RFC 9110 §11.2 is a token, among them what opaque tokens use, and ath is over exactly these bytes.
func TestTokenCharacters(t *testing.T) {
	for _, opaque := range []string{"a", "A-._~+/09", "abc=", "abc==", "/", strings.Repeat("x", 16<<10)} {
		w := newWorld(t)
		w.registry.tokens[opaque] = w.token()
		req := request(w.proof(set("ath", hashOf(opaque))))
		req.Authorization = []string{"DPoP " + opaque}
		if e := w.verify(req); e != nil {
			t.Errorf("refused with the token %.20q: %v", opaque, e)
		}
	}
}

func TestDPoPFields(t *testing.T) {
	for name, tt := range map[string]struct {
		lines func(proof string) []string
		want  dpop.Reason
	}{
		"one":                           {func(p string) []string { return []string{p} }, ""},
		"none":                          {func(string) []string { return nil }, dpop.ErrProofMissing},
		"empty":                         {func(string) []string { return []string{""} }, dpop.ErrProofMissing},
		"D11 R009 two":                  {func(p string) []string { return []string{p, p} }, dpop.ErrProofMultiple},
		"D11 R009 one and an empty one": {func(p string) []string { return []string{p, ""} }, dpop.ErrProofMultiple},
		"D11 R009 joined by a comma":    {func(p string) []string { return []string{p + ", " + p} }, dpop.ErrProofMultiple},
		"D11 R009 a comma at the end":   {func(p string) []string { return []string{p + ","} }, dpop.ErrProofMultiple},
		"D11 R009 a folded line":        {func(p string) []string { return []string{p[:10] + "\r\n " + p[10:]} }, dpop.ErrProofMalformed},
		"R010 a space before":           {func(p string) []string { return []string{" " + p} }, dpop.ErrProofMalformed},
		"R010 a space after":            {func(p string) []string { return []string{p + " "} }, dpop.ErrProofMalformed},
		"R010 quoted":                   {func(p string) []string { return []string{`"` + p + `"`} }, dpop.ErrProofMalformed},
		"F05 64 KiB":                    {func(p string) []string { return []string{p + strings.Repeat("A", 64<<10)} }, dpop.ErrProofMalformed},
		"F05 8 KiB and a byte":          {func(string) []string { return []string{strings.Repeat("A", 8<<10+1)} }, dpop.ErrProofMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			wantReason(t, w.verify(request(tt.lines(w.proof())...)), tt.want)
		})
	}
}

// F05: exactly 8 KiB is accepted, one more byte is not.
func TestF05TheLimitOfAProofIsInclusive(t *testing.T) {
	w := newWorld(t)
	length := func(padding int) string { return w.proof(set("padding", strings.Repeat("x", padding))) }
	base := len(length(0))
	longest := ""
	for padding := (8<<10 - base) / 4 * 3; ; padding++ {
		p := length(padding)
		if len(p) > 8<<10 {
			if got := reasonOf(w.verify(request(p))); got != dpop.ErrProofMalformed {
				t.Errorf("a proof of %d bytes: reason %q", len(p), got)
			}
			break
		}
		longest = p
	}
	if e := w.verify(request(longest)); e != nil {
		t.Errorf("a proof of %d bytes is refused: %v", len(longest), e)
	}
}

// The adapter copies the lines as they came and reads neither Host, nor forwarded headers, nor an override of the
// method (B02, B09), nor Proxy-Authorization (R036). The query goes along, so that a token in it is found (D10).
func TestRequestFromHTTP(t *testing.T) {
	r := httptest.NewRequest("PUT", "http://internal:8080/x?access_token="+token, nil)
	r.Header["Authorization"] = []string{"one", "two"}
	r.Header.Add("dpop", "three")
	r.Header.Add("DPoP", "four")
	r.Header.Set("X-HTTP-Method-Override", "GET")
	r.Header.Set("X-Forwarded-Host", "evil.example")
	req := dpop.RequestFromHTTP(r, target)
	if req.Method != "PUT" || req.URI != target+"?access_token="+token {
		t.Errorf("method and URI are %q and %q", req.Method, req.URI)
	}
	if strings.Join(req.Authorization, "|") != "one|two" || strings.Join(req.DPoP, "|") != "three|four" {
		t.Errorf("lines are %q and %q", req.Authorization, req.DPoP)
	}
	if req.ClientCertificate != nil {
		t.Error("a certificate came from nowhere")
	}
	anonymous := httptest.NewRequest(http.MethodGet, target, nil)
	anonymous.Header.Set("Proxy-Authorization", "DPoP "+token)
	w := newWorld(t)
	wantReason(t, w.verify(dpop.RequestFromHTTP(anonymous, target)), dpop.ErrNoCredentials)
}
