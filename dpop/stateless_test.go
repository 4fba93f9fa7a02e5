package dpop_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/nonce"
	"github.com/senderbound/senderbound/replay/memstore"
)

// R183: a proof may be 5 minutes old, as SEP-1932 has it for servers without state, where docs/policy.md says how. It works once
// nevertheless. 5 minutes ahead there are nonces only: as a Leeway that would be a proof that can be kept for 10.
func TestR183FiveMinutes(t *testing.T) {
	old := func(c *dpop.Config) { c.MaxAge, c.Leeway = 5*time.Minute, time.Minute }
	strict := func(*dpop.Config) {}
	source := newNonces(t, nonce.Config{}, "new")
	withNonce := func(_, c map[string]any) { c["nonce"] = source.Issue("", now) }
	none := func(_, _ map[string]any) {}
	for name, tt := range map[string]struct {
		config func(*dpop.Config)
		iat    int64 // seconds from now
		change func(header, claims map[string]any)
		want   dpop.Reason
	}{
		"R183 5 minutes ago":                {old, -300, none, ""},
		"R183 5 minutes and a second ago":   {old, -301, none, dpop.ErrProofTooOld},
		"R183 a minute ahead":               {old, 60, none, ""},
		"R183 a minute and a second ahead":  {old, 61, none, dpop.ErrProofFromFuture},
		"R183 5 minutes ahead":              {old, 300, none, dpop.ErrProofFromFuture},
		"R183 5 minutes ago, with a nonce":  {nonced(source), -300, withNonce, ""},
		"R183 5 minutes ahead, and a nonce": {nonced(source), 300, withNonce, ""},
		"control: 5 minutes ago":            {strict, -300, none, dpop.ErrProofTooOld},
		"control: a minute ahead":           {strict, 60, none, dpop.ErrProofFromFuture},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.config)
			proof := w.proof(set("iat", now.Unix()+tt.iat), tt.change)
			wantReason(t, w.verify(request(proof)), tt.want)
			if tt.want == "" {
				wantReason(t, w.verify(request(proof)), dpop.ErrProofReplayed)
			}
		})
	}

	t.Run("R183 to its last moment", func(t *testing.T) { // from as early as it may come to as late
		w := newWorld(t, old)
		proof := w.proof(set("iat", now.Unix()+60))
		wantReason(t, w.verify(request(proof)), "")
		w.now = now.Add(6 * time.Minute)
		wantReason(t, w.verify(request(proof)), dpop.ErrProofReplayed)
		if w.store.expires.Before(w.now) {
			t.Errorf("R183: the store may forget the proof at %v, and it is good until %v", w.store.expires, w.now)
		}
	})

	t.Run("R183 the configuration", func(t *testing.T) {
		for name, tt := range map[string]struct {
			window time.Duration
			config func(*dpop.Config)
			ok     bool
		}{
			"what docs/policy.md says": {371 * time.Second, old, true},
			"a second less":            {370 * time.Second, old, false},
			"memstore as by default":   {0, old, false},
			"5 minutes ahead, too":     {time.Hour, func(c *dpop.Config) { c.MaxAge, c.Leeway = 5*time.Minute, 5*time.Minute }, false},
		} {
			store, err := memstore.New(memstore.Config{Window: tt.window})
			require.NoError(t, err)
			defer store.Close()
			cfg := dpop.Config{Resolver: &registry{}, Replay: store}
			tt.config(&cfg)
			if _, err := dpop.NewVerifier(cfg); (err == nil) != tt.ok {
				t.Errorf("R183: %s: error is %v", name, err)
			}
		}
	})
}
