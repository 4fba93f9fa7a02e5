package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay/memstore"
)

// TestSettings leaves out one after the other: each mistake is one sentence that says what to set.
func TestSettings(t *testing.T) {
	t.Setenv("CLIENT_SECRET", "the-canary-secret")
	good := []string{"-issuer", "https://id.example.com", "-client-id", "orders-api", "-origin", "https://api.example.com", "-redis", "redis://127.0.0.1:1"}
	without := func(flag string) (rest []string) {
		for i := 0; i < len(good); i += 2 {
			if good[i] != flag {
				rest = append(rest, good[i], good[i+1])
			}
		}
		return rest
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"nothing":          {nil, "-issuer is missing: give"},
		"no issuer":        {without("-issuer"), "-issuer is missing: give"},
		"no client":        {without("-client-id"), "-client-id is missing: give"},
		"no origin":        {without("-origin"), "-origin is missing: give"},
		"no Redis":         {without("-redis"), "-redis is missing: give"},
		"no such flag":     {append(good, "-x"), "flag provided but not defined: -x"},
		"no such store":    {append(good, "-redis", "memcached://127.0.0.1"), "-redis: "},
		"nobody listening": {good, "-redis: redisstore: dial tcp 127.0.0.1:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			err := run(t.Context(), tt.args, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") || time.Since(start) > 10*time.Second {
				t.Errorf("after %v the error is %v, want one soon that says %q", time.Since(start), err, tt.want)
			}
		})
	}
	t.Setenv("CLIENT_SECRET", "")
	require.ErrorContains(t, run(t.Context(), good, slog.New(slog.DiscardHandler)), "the environment has no CLIENT_SECRET: set")
}

// TestHandler is without Redis, whose place memstore takes: what the authorization server says of a token decides, and what was
// said is believed for cacheTTL. Integration tests have the rest.
func TestHandler(t *testing.T) {
	t.Setenv("CLIENT_SECRET", "the-canary-secret")
	key := dpoptest.NewKey()
	var mu sync.Mutex
	answer := map[string]any{}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": server.URL, "introspection_endpoint": server.URL + "/introspect"})
	})
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if id, secret, ok := r.BasicAuth(); !ok || id != "orders-api" || secret != "the-canary-secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	store, err := memstore.New(memstore.Config{})
	require.NoError(t, err)
	defer store.Close()
	var log bytes.Buffer
	const origin = "https://api.example.com"
	s := settings{issuer: server.URL, clientID: "orders-api", audience: "orders-api", origin: origin}
	handler, err := newHandler(s, store, slog.New(slog.NewJSONHandler(&log, nil)))
	require.NoError(t, err)

	get := func(token, proof string) int {
		r := httptest.NewRequest(http.MethodGet, "/orders", nil)
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", proof)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	proof := func(key *dpopclient.Key, token string) string {
		return dpoptest.Proof(key, dpopclient.Claims{Method: "GET", URI: origin + "/orders", AccessToken: token})
	}
	active := func(changes ...any) map[string]any {
		m := map[string]any{
			"active": true, "token_type": "DPoP", "cnf": map[string]string{"jkt": key.JKT()}, "aud": "orders-api", "sub": "alice",
			"scope": "orders:read", "exp": time.Now().Add(time.Hour).Unix(),
		}
		for i := 0; i < len(changes); i += 2 {
			m[changes[i].(string)] = changes[i+1]
		}
		return m
	}
	for token, tt := range map[string]struct {
		answer map[string]any
		key    *dpopclient.Key
		want   int
	}{
		"the-canary-good":      {active(), key, 200},
		"the-canary-no-scope":  {active("scope", "profile"), key, 403},
		"the-canary-inactive":  {map[string]any{"active": false}, key, 401},
		"the-canary-another":   {active("aud", "billing-api"), key, 401},
		"the-canary-expired":   {active("exp", 1), key, 401},
		"the-canary-unbound":   {active("cnf", nil), key, 401},
		"the-canary-thief":     {active(), dpoptest.NewKey(), 401},
		"the-canary-no-answer": {nil, key, 503},
	} {
		mu.Lock()
		answer = tt.answer
		mu.Unlock()
		if got := get(token, proof(tt.key, token)); got != tt.want {
			t.Errorf("%s: status is %d, want %d", token, got, tt.want)
		}
	}
	mu.Lock()
	answer = active()
	mu.Unlock()
	used := proof(key, "the-canary-twice")
	require.Equal(t, http.StatusOK, get("the-canary-twice", used))
	require.Equal(t, http.StatusUnauthorized, get("the-canary-twice", used), "a proof works once")
	if log.Len() == 0 || strings.Contains(log.String(), "canary") {
		t.Errorf("the log has nothing, or a token or the secret: %s", log.String())
	}
}
