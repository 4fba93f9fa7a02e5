package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

func TestNetHTTP(t *testing.T) {
	const origin = "https://api.example.com"
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	handler, err := newHandler(t.Context(), atjwt.Config{Issuer: issuer.URL, Audience: "orders-api"}, origin)
	require.NoError(t, err)

	key := dpoptest.NewKey()
	for name, test := range map[string]struct {
		scope string
		want  int
	}{
		"with the scope":    {"orders:read", http.StatusOK},
		"without the scope": {"profile", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			token := issuer.Token("orders-api", key.JKT(), map[string]any{"scope": test.scope})
			r := httptest.NewRequest(http.MethodGet, "/orders", nil)
			r.Header.Set("Authorization", "DPoP "+token)
			r.Header.Set("DPoP", dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: origin + "/orders", AccessToken: token}))
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != test.want {
				t.Errorf("status is %d, want %d: %s", w.Code, test.want, w.Body)
			}
		})
	}
}
