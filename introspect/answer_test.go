package introspect_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/introspect"
)

// naive is how an answer is read that looks at active and no closer: the control of the tables below, whose bodies must be
// wrong in nothing but what they are about.
func naive(body string) bool {
	var answer map[string]any
	if json.Unmarshal([]byte(body), &answer) != nil {
		return false
	}
	return answer["active"] != false
}

func TestAnswers(t *testing.T) {
	now := time.Now().Unix()
	const (
		invalid   = string(dpop.ErrTokenInvalid)
		malformed = string(dpop.ErrTokenMalformed)
		wrongIss  = string(dpop.ErrTokenIssuer)
		wrongAud  = string(dpop.ErrTokenAudience)
		expired   = string(dpop.ErrTokenExpired)
		early     = string(dpop.ErrTokenNotYetValid)
	)
	// Whole bodies, for what encoding/json would not write.
	good := active().String()
	edit := func(old, new string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, new, 1)
	}
	for name, tt := range map[string]struct {
		changes members
		body    string // instead, if not ""
		want    string
	}{
		"good":                                   {want: accepted},
		"D19, R101 active false":                 {changes: members{"active": false}, want: invalid},
		"D19, R101 active \"true\"":              {changes: members{"active": "true"}, want: invalid},
		"D19, R101 active 1":                     {changes: members{"active": 1}, want: invalid},
		"D19, R101 active null":                  {changes: members{"active": null}, want: invalid},
		"D19, R101 active [true]":                {changes: members{"active": []bool{true}}, want: invalid},
		"D19, R101 active {}":                    {changes: members{"active": members{}}, want: invalid},
		"D19, R101 no active":                    {changes: members{"active": nil}, want: invalid},
		"D19, R101 Active":                       {changes: members{"active": nil, "Active": true}, want: invalid},
		"D19 Keycloak's jwt, active false":       {changes: members{"active": false, "jwt": "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"}, want: invalid},
		"D19 Keycloak's jwt alone":               {body: `{"active":false,"jwt":"eyJhbGciOiJSUzI1NiJ9.e30.AAAA"}`, want: invalid},
		"Keycloak's jwt, active true":            {changes: members{"jwt": "eyJhbGciOiJSUzI1NiJ9.e30.AAAA"}, want: accepted},
		"D19, R102 iss of another":               {changes: members{"iss": issuerURL + "/"}, want: wrongIss},
		"D19, R102 iss in another case":          {changes: members{"iss": strings.ToUpper(issuerURL)}, want: wrongIss},
		"D19, R102 iss empty":                    {changes: members{"iss": ""}, want: wrongIss},
		"R102 iss null":                          {changes: members{"iss": null}, want: malformed},
		"R102 iss a list":                        {changes: members{"iss": []string{issuerURL}}, want: malformed},
		"R102 no iss":                            {changes: members{"iss": nil}, want: accepted},
		"D19, R102 aud of another":               {changes: members{"aud": "account"}, want: wrongAud},
		"D19, R102 aud, a beginning":             {changes: members{"aud": audience + "-2"}, want: wrongAud},
		"D19, R102 aud, two in one":              {changes: members{"aud": "account " + audience}, want: wrongAud},
		"D19, R102 aud empty":                    {changes: members{"aud": ""}, want: wrongAud},
		"D19, R102 aud an empty list":            {changes: members{"aud": []string{}}, want: wrongAud},
		"D19, R102 no aud":                       {changes: members{"aud": nil}, want: wrongAud},
		"R102 aud null":                          {changes: members{"aud": null}, want: malformed},
		"R102 aud a list of numbers":             {changes: members{"aud": []any{audience, 7}}, want: malformed},
		"R102 aud an object":                     {changes: members{"aud": members{audience: true}}, want: malformed},
		"R102 aud a string":                      {changes: members{"aud": audience}, want: accepted},
		"D19, R102 exp now":                      {changes: members{"exp": now - 1}, want: expired},
		"D19, R102 exp 0":                        {changes: members{"exp": 0}, want: expired},
		"R102 exp a fraction":                    {changes: members{"exp": float64(now) + 60.5}, want: accepted},
		"R102 exp past, a fraction":              {changes: members{"exp": float64(now) - 60.5}, want: expired},
		"R102 exp a string":                      {changes: members{"exp": fmt.Sprint(now + 60)}, want: malformed},
		"R102 exp null":                          {changes: members{"exp": null}, want: malformed},
		"R102 exp negative":                      {changes: members{"exp": -1}, want: malformed},
		"R102 exp in milliseconds":               {changes: members{"exp": (now + 60) * 1000}, want: malformed},
		"R102 no exp":                            {changes: members{"exp": nil}, want: accepted},
		"R102 nbf ahead within the leeway":       {changes: members{"nbf": now + 5}, want: accepted},
		"R102 nbf ahead":                         {changes: members{"nbf": now + 60}, want: early},
		"R102 nbf a string":                      {changes: members{"nbf": fmt.Sprint(now)}, want: malformed},
		"sub a number":                           {changes: members{"sub": 7}, want: malformed},
		"client_id null":                         {changes: members{"client_id": null}, want: malformed},
		"scope a list":                           {changes: members{"scope": []string{"orders:read"}}, want: malformed},
		"no sub, client_id, scope":               {changes: members{"sub": nil, "client_id": nil, "scope": nil}, want: accepted},
		"members that are not known":             {changes: members{"username": 7, "ext": []any{null}}, want: accepted},
		"D19 active twice":                       {body: edit(`"active":true`, `"active":true,"active":true`), want: malformed},
		"D19 active twice but for its case":      {body: edit(`"active":true`, `"active":true,"ACTIVE":true`), want: malformed},
		"D19 aud twice":                          {body: edit(`"active":true`, `"aud":"orders-api","active":true`), want: malformed},
		"D19 active, escaped":                    {body: edit(`"active":true`, `"\u0061ctive":true`), want: accepted},
		"a name with NUL, which a user may have": {body: edit(`"alice"`, `"ali\u0000ce"`), want: malformed},
		"half a surrogate pair":                  {body: edit(`"alice"`, `"\ud83d"`), want: malformed},
		"a claim that is deep":                   {body: edit(`"alice"`, strings.Repeat("[", 20)+strings.Repeat("]", 20)), want: malformed},
		"not UTF-8":                              {body: edit(`alice`, "al\xffice"), want: malformed},
		"white space around it":                  {body: " \r\n\t" + good + "\n", want: accepted},
		"HTML":                                   {body: "<html>active: true</html>", want: unavailable},
		"nothing":                                {body: " ", want: unavailable},
		"a list":                                 {body: "[" + good + "]", want: unavailable},
		"true":                                   {body: "true", want: unavailable},
		"a JWT (RFC 9701)":                       {body: "eyJhbGciOiJSUzI1NiJ9.e30.AAAA", want: unavailable},
		"two answers":                            {body: good + good, want: unavailable},
		"half an answer":                         {body: good[:len(good)-1], want: unavailable},
		"a comma too many":                       {body: edit(`{`, `{,`), want: unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			body := tt.body
			if body == "" {
				body = active().with(tt.changes).String()
			}
			s := &server{answer: text(body)}
			wantVerdict(t, newResolver(t, config(s)), token, tt.want)
			if tt.want != unavailable && !strings.Contains(body, `"active":false`) && !naive(body) {
				t.Error("the control: a naive reader refuses it, too")
			}
		})
	}
}

// What Config leaves open is not checked, and no more than that.
func TestConfiguredChecks(t *testing.T) {
	anyAudience := func(c *introspect.Config) { c.Audience, c.AllowAnyAudience = "", true }
	ours := dpop.Token{Issuer: issuerURL, Audience: []string{audience}}
	anyIssuer := func(c *introspect.Config) { c.Issuer = "" }
	for name, tt := range map[string]struct {
		config  func(*introspect.Config)
		changes members
		want    string
		token   dpop.Token // its issuer and audience
	}{
		"any audience, none":          {anyAudience, members{"aud": nil}, accepted, dpop.Token{Issuer: issuerURL}},
		"any audience, another":       {anyAudience, members{"aud": "x"}, accepted, dpop.Token{Issuer: issuerURL, Audience: []string{"x"}}},
		"any audience, malformed":     {anyAudience, members{"aud": 7}, string(dpop.ErrTokenMalformed), dpop.Token{}},
		"any issuer, none":            {anyIssuer, members{"iss": nil, "aud": audience}, accepted, dpop.Token{Audience: []string{audience}}},
		"any issuer, some":            {anyIssuer, members{"iss": "x", "aud": audience}, accepted, dpop.Token{Issuer: "x", Audience: []string{audience}}},
		"any issuer, malformed":       {anyIssuer, members{"iss": 7}, string(dpop.ErrTokenMalformed), dpop.Token{}},
		"an issuer that is not named": {func(*introspect.Config) {}, members{"iss": nil, "aud": "orders-api"}, accepted, ours},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t, config(says(active().with(tt.changes)), tt.config))
			got, err := r.ResolveToken(t.Context(), token)
			require.Equal(t, tt.want, verdictOf(t, got, err), err)
			if err == nil {
				require.Equal(t, tt.token, dpop.Token{Issuer: got.Issuer, Audience: got.Audience})
			}
		})
	}
}

// The ends of exp and nbf, to the nanosecond.
func TestTimes(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	r := newResolver(t, config(
		says(active().with(members{"exp": at.Unix() + 60, "nbf": at.Unix()})),
		func(c *introspect.Config) {
			c.Now = func() time.Time { return at }
			c.Leeway = 20 * time.Second
			c.NoNegativeCache = true
		}))
	start := at
	for _, tt := range []struct {
		now  time.Duration
		want string
	}{
		{-20*time.Second - 1, string(dpop.ErrTokenNotYetValid)},
		{-20 * time.Second, accepted},
		{60*time.Second - 1, accepted},
		{60 * time.Second, string(dpop.ErrTokenExpired)},
	} {
		at = start.Add(tt.now)
		if got := verdict(t, r, token); got != tt.want {
			t.Errorf("R102 %v after nbf: %q, want %q", tt.now, got, tt.want)
		}
	}
}

// R031, D03: every token_type with every cnf. An answer that contradicts itself is refused, and a cnf that is not understood
// is Unknown, not absent.
func TestR031TypeAgainstConfirmation(t *testing.T) {
	const dpopType, bearerType, noType, other, noText = 0, 1, 2, 3, 4
	types := map[string]struct {
		value any
		kind  int
	}{
		"none": {nil, noType}, "empty": {"", noType},
		"DPoP": {"DPoP", dpopType}, "dpop": {"dpop", dpopType}, "DPOP": {"DPOP", dpopType},
		"Bearer": {"Bearer", bearerType}, "bearer": {"bearer", bearerType},
		"Refresh": {"Refresh", other}, "ID": {"ID", other}, "N_A": {"N_A", other}, "DPoP and a space": {"DPoP ", other},
		"null": {null, noText}, "a number": {7, noText}, "a list": {[]string{"DPoP"}, noText},
	}
	confirmations := map[string]struct {
		value any
		want  dpop.Confirmation
	}{
		"none":               {nil, dpop.Confirmation{}},
		"jkt":                {members{"jkt": jkt}, dpop.Confirmation{JKT: jkt}},
		"jkt and Keycloak's": {members{"jkt": jkt, "kc-jkt-type": "DPoP"}, dpop.Confirmation{JKT: jkt}},
		"x5t":                {members{"x5t#S256": x5t}, dpop.Confirmation{X5T: x5t}},
		"D13 both":           {members{"jkt": jkt, "x5t#S256": x5t}, dpop.Confirmation{JKT: jkt, X5T: x5t}},
		"D03 empty":          {members{}, dpop.Confirmation{Unknown: true}},
		"D03 jwk":            {members{"jwk": members{"kty": "EC"}}, dpop.Confirmation{Unknown: true}},
		"D03 null":           {null, dpop.Confirmation{Unknown: true}},
		"D03 a string":       {jkt, dpop.Confirmation{Unknown: true}},
		"D03 jkt null":       {members{"jkt": null}, dpop.Confirmation{Unknown: true}},
		"D23 jkt of SHA-1":   {members{"jkt": jkt[:27]}, dpop.Confirmation{Unknown: true}},
		"D23 jkt and an =":   {members{"jkt": jkt + "="}, dpop.Confirmation{Unknown: true}},
		"D03 x5t null":       {members{"jkt": jkt, "x5t#S256": null}, dpop.Confirmation{Unknown: true}},
	}
	for typeName, typ := range types {
		for cnfName, cnf := range confirmations {
			t.Run(typeName+", "+cnfName, func(t *testing.T) {
				bound := cnf.want.JKT != ""
				want := accepted
				switch {
				case typ.kind == noText:
					want = string(dpop.ErrTokenMalformed)
				case typ.kind == other:
					want = string(dpop.ErrTokenType)
				case typ.kind == dpopType && !bound && !cnf.want.Unknown, typ.kind == bearerType && bound:
					want = string(dpop.ErrTokenInvalid)
				}
				answer := active().with(members{"token_type": typ.value, "cnf": cnf.value})
				got, err := newResolver(t, config(says(answer))).ResolveToken(t.Context(), token)
				if have := verdictOf(t, got, err); have != want {
					t.Fatalf("R031: %q, want %q (%v)", have, want, err)
				}
				if err == nil && got.Confirmation != cnf.want {
					t.Errorf("D03: the confirmation is %+v, want %+v", got.Confirmation, cnf.want)
				}
				if !naive(answer.String()) {
					t.Error("the control: a naive reader refuses it, too")
				}
			})
		}
	}
}
