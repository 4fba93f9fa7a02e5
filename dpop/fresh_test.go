package dpop_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/senderbound/senderbound/dpop"
)

// R019, R053, C08, C11, R175: both ends of each window, inclusive, and one step beyond.
func TestWindows(t *testing.T) {
	at := func(name string, offset float64) func(header, claims map[string]any) {
		return set(name, float64(now.Unix())+offset)
	}
	for name, tt := range map[string]struct {
		change func(header, claims map[string]any)
		config func(*dpop.Config)
		clock  time.Duration // how far the server's clock is from now
		want   dpop.Reason
	}{
		"iat 60 s ago":                               {at("iat", -60), nil, 0, ""},
		"iat 61 s ago":                               {at("iat", -61), nil, 0, dpop.ErrProofTooOld},
		"iat 60 s ago and a nanosecond":              {at("iat", -60), nil, 1, dpop.ErrProofTooOld},
		"iat 60.5 s ago":                             {at("iat", -60.5), nil, 0, dpop.ErrProofTooOld},
		"iat 59.5 s ago":                             {at("iat", -59.5), nil, 0, ""},
		"C08 iat 10 s ahead":                         {at("iat", 10), nil, 0, ""},
		"C08 iat 11 s ahead":                         {at("iat", 11), nil, 0, dpop.ErrProofFromFuture},
		"C08 iat 10 s ahead and a nanosecond":        {at("iat", 10), nil, -1, dpop.ErrProofFromFuture},
		"C08 iat 200 s ahead":                        {at("iat", 200), nil, 0, dpop.ErrProofFromFuture},
		"R175 iat 60 s ahead with the widest leeway": {at("iat", 60), leeway(60 * time.Second), 0, ""},
		"R175 iat 61 s ahead with the widest leeway": {at("iat", 61), leeway(60 * time.Second), 0, dpop.ErrProofFromFuture},
		"MaxAge 5 s, iat 5 s ago":                    {at("iat", -5), maxAge(5 * time.Second), 0, ""},
		"MaxAge 5 s, iat 6 s ago":                    {at("iat", -6), maxAge(5 * time.Second), 0, dpop.ErrProofTooOld},
		"C10 iat 0":                                  {set("iat", 0), nil, 0, dpop.ErrProofTooOld},
		"C10 iat in the year 9999":                   {set("iat", 253402300799), nil, 0, dpop.ErrProofFromFuture},
		"C10 iat 300 years ahead":                    {at("iat", 300*365*86400), nil, 0, dpop.ErrProofFromFuture},
		"C10 iat in milliseconds":                    {set("iat", now.UnixMilli()), nil, 0, dpop.ErrProofMalformed},
		"C10 iat 1e308":                              {set("iat", raw("1e308")), nil, 0, dpop.ErrProofMalformed},
		"C10 iat 1e99":                               {set("iat", raw("1e99")), nil, 0, dpop.ErrProofMalformed},
		"C10 iat negative":                           {at("iat", -2*float64(now.Unix())), nil, 0, dpop.ErrProofMalformed},
		"C10 iat with an exponent":                   {set("iat", raw("1.764e9")), nil, 0, ""},
		"C10 iat as a string":                        {set("iat", "1764000000"), nil, 0, dpop.ErrProofMalformed},
		"C10 iat null":                               {set("iat", raw("null")), nil, 0, dpop.ErrProofMalformed},
		"C10 iat true":                               {set("iat", true), nil, 0, dpop.ErrProofMalformed},
		"C10 iat as an array":                        {set("iat", []any{now.Unix()}), nil, 0, dpop.ErrProofMalformed},
		"R004 no iat":                                {set("iat", nil), nil, 0, dpop.ErrProofMalformed},
		"C11 exp now":                                {at("exp", 0), nil, 0, dpop.ErrProofTooOld},
		"C11 exp in a second":                        {at("exp", 1), nil, 0, ""},
		"C11 exp a second ago":                       {at("exp", -1), nil, 0, dpop.ErrProofTooOld},
		"C11 exp does not prolong":                   {func(h, c map[string]any) { at("iat", -61)(h, c); at("exp", 1000)(h, c) }, nil, 0, dpop.ErrProofTooOld},
		"C11 exp null":                               {set("exp", raw("null")), nil, 0, dpop.ErrProofMalformed},
		"C11 exp as a string":                        {set("exp", "1764000001"), nil, 0, dpop.ErrProofMalformed},
		"C11 nbf 10 s ahead":                         {at("nbf", 10), nil, 0, ""},
		"C11 nbf 11 s ahead":                         {at("nbf", 11), nil, 0, dpop.ErrProofFromFuture},
		"C11 nbf in the year 9999":                   {set("nbf", 253402300799), nil, 0, dpop.ErrProofFromFuture},
		"C11 nbf negative":                           {set("nbf", -1), nil, 0, dpop.ErrProofMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if tt.config != nil {
				w.verifier = w.newVerifier(tt.config)
			}
			proof := w.proof(tt.change)
			w.now = w.now.Add(tt.clock)
			e := w.verify(request(proof))
			wantReason(t, e, tt.want)
			if e != nil && w.store.calls != 0 {
				t.Error("the replay store was asked about a proof outside its window")
			}
		})
	}
}

func leeway(d time.Duration) func(*dpop.Config) { return func(c *dpop.Config) { c.Leeway = d } }
func maxAge(d time.Duration) func(*dpop.Config) { return func(c *dpop.Config) { c.MaxAge = d } }

// C10: a float64 that is cut to an int64 without care is negative; none of these may pass as recent.
func TestC10NoExtremeTimeIsRecent(t *testing.T) {
	w := newWorld(t)
	for _, seconds := range []float64{1 << 31, 1 << 32, 1 << 53, 1 << 62, 1 << 63, 1 << 64, math.MaxFloat64, -1 << 63} {
		if e := w.verify(request(w.proof(set("iat", seconds)))); e == nil {
			t.Errorf("accepted with iat %g", seconds)
		}
	}
	w.now = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC) // a server whose clock was never set
	if e := w.verify(request(w.proof(set("iat", 1764000000)))); reasonOf(e) != dpop.ErrProofFromFuture {
		t.Errorf("with a clock in the year 1: %v", e)
	}
	w.now = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	if e := w.verify(request(w.proof(set("iat", 1764000000)))); reasonOf(e) != dpop.ErrProofTooOld {
		t.Errorf("with a clock in the year 9999: %v", e)
	}
}

// R054, R056, C09: the store learns when the proof was made, and until when some process with another clock may accept
// it: 2·ClockSkew longer than this one. Too short by a second would let it pass twice.
func TestC09HowLongAProofIsRemembered(t *testing.T) {
	for name, tt := range map[string]struct {
		config        func(*dpop.Config)
		change        func(header, claims map[string]any)
		made, expires time.Time
	}{
		"defaults":                          {nil, nil, now, now.Add(70 * time.Second)},
		"made before":                       {nil, set("iat", now.Unix()-30), now.Add(-30 * time.Second), now.Add(40 * time.Second)},
		"C08 made ahead":                    {nil, set("iat", now.Unix()+10), now.Add(10 * time.Second), now.Add(80 * time.Second)},
		"rounded up":                        {nil, set("iat", float64(now.Unix())+0.5), now.Add(500 * time.Millisecond), now.Add(71 * time.Second)},
		"another MaxAge":                    {maxAge(5 * time.Second), nil, now, now.Add(15 * time.Second)},
		"MaxAge in fractions":               {maxAge(5001 * time.Millisecond), nil, now, now.Add(16 * time.Second)},
		"another ClockSkew":                 {func(c *dpop.Config) { c.ClockSkew = time.Second }, nil, now, now.Add(62 * time.Second)},
		"exp does not shorten":              {nil, set("exp", now.Unix()+1), now, now.Add(70 * time.Second)},
		"E06 with nonces, the nonce's":      {withNonces, set("nonce", "good-nonce"), now.Add(-20 * time.Second), now.Add(50 * time.Second)},
		"E06 with nonces, whatever the iat": {withNonces, func(_, c map[string]any) { c["nonce"], c["iat"] = "good-nonce", 1 }, now.Add(-20 * time.Second), now.Add(50 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if tt.config != nil {
				w.verifier = w.newVerifier(tt.config)
			}
			if tt.change == nil {
				tt.change = func(_, _ map[string]any) {}
			}
			wantReason(t, w.verify(request(w.proof(tt.change))), "")
			if !w.store.made.Equal(tt.made) || !w.store.expires.Equal(tt.expires) {
				t.Errorf("the store was told %v to %v, want %v to %v", w.store.made.UTC(), w.store.expires.UTC(), tt.made.UTC(), tt.expires.UTC())
			}
		})
	}
}

// The property behind it, for two processes whose clocks are as wrong as ClockSkew allows, one ahead and one behind:
// while either accepts the proof by its own clock, a store that goes by the other's still remembers it.
func TestC09NoProcessAcceptsWhatTheStoreForgot(t *testing.T) {
	const skew = 5 * time.Second
	for _, ahead := range []float64{0, 0.25, 0.999, 1} {
		w := newWorld(t)
		w.now = now.Add(skew) // the process that accepts it first, and the store, are ahead of true time
		proof := w.proof(set("iat", float64(now.Unix())+ahead))
		wantReason(t, w.verify(request(proof)), "")
		forgotten := w.store.expires.Add(-skew) // in true time

		behind := newWorld(t)
		behind.now = forgotten.Add(-skew) // by the clock of a process that is behind
		e := behind.verify(request(behind.proof(set("iat", float64(now.Unix())+ahead))))
		// At this very moment the proof may be as old as MaxAge, which is inclusive, but no moment later.
		behind.now = behind.now.Add(time.Nanosecond)
		later := behind.verify(request(behind.proof(set("iat", float64(now.Unix())+ahead))))
		if reasonOf(later) != dpop.ErrProofTooOld {
			t.Errorf("iat %+gs: a process that is behind still accepts the proof after the store forgot it (%v, %v)", ahead, e, later)
		}
	}
}

// The operator is told by how much, and the likely cause.
func TestSkewIsTold(t *testing.T) {
	for name, tt := range map[string]struct {
		iat  int64
		want []string
	}{
		"too old":         {now.Unix() - 75, []string{"75 s ago", "limit is 60 s", "clock", "twice"}},
		"from the future": {now.Unix() + 3600, []string{"3600 s ahead", "limit is 10 s", "clock"}},
		"milliseconds":    {now.UnixMilli(), []string{"iat", "milliseconds"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e := w.verify(request(w.proof(set("iat", tt.iat))))
			if e == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if detail := e.LogValue().String(); !strings.Contains(detail, want) {
					t.Errorf("the record %s does not say %q", detail, want)
				}
			}
		})
	}
}
