package issuer_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/internal/issuer"
)

func TestCheckURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://id.example.com":                       "",
		"https://id.example.com:8443/realms/a?b=c":     "",
		"HTTPS://id.example.com":                       "",
		"http://localhost:8180/realms/demo":            "",
		"http://127.0.0.2":                             "",
		"http://[::1]:8180":                            "",
		"":                                             "is empty",
		"https://host:port":                            "is not a URL",
		"id.example.com":                               "not an absolute URL",
		"https:///path":                                "not an absolute URL",
		"https://:443/":                                "not an absolute URL",
		"https:opaque":                                 "not an absolute URL",
		"https://user:secret@id.example.com":           "has a user name in it",
		"http://id.example.com":                        "neither https nor a loopback address",
		"http://127.0.0.1.example.com":                 "neither https nor a loopback address",
		"http://localhost.example.com":                 "neither https nor a loopback address",
		"http://10.0.0.1":                              "neither https nor a loopback address",
		"ftp://id.example.com":                         "not an https URL",
		"http://id.example.com/introspect?key=secret":  `is "http://id.example.com/introspect", which`,
		"ftp://id.example.com/introspect#key=secret":   `is "ftp://id.example.com/introspect", not`,
		"/introspect?key=secret":                       `is "/introspect", not`,
		"https://id.example.com/%zz?key=secret":        "is not a URL",
		"https://" + strings.Repeat("a", 1000) + "/%g": "is not a URL",
	} {
		err := issuer.CheckURL(raw, false)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: error is %v", raw, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("R104 %.60s: error is %v, want one that says %q", raw, err, want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("F02 %s: the error shows the secret: %v", raw, err)
		}
	}
	if err := issuer.CheckURL("http://id.example.com", true); err != nil {
		t.Errorf("with InsecureHTTP the error is %v", err)
	}
}

// A roundTripper answers as a function says. It does not set Response.Request, which no one must rely on.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func body(r io.Reader) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(r)}, nil
	}
}

// D18: an answer is read to its end or not at all, and not beyond a limit.
func TestGet(t *testing.T) {
	const limit = 512 << 10
	for name, tt := range map[string]struct {
		transport roundTripper
		want      string
	}{
		"as much as may be": {body(strings.NewReader(strings.Repeat("a", limit))), ""},
		"D18 one more":      {body(strings.NewReader(strings.Repeat("a", limit+1))), "more than 524288 bytes"},
		"D18 without end":   {body(endless{}), "more than 524288 bytes"},
		"D18 breaks off":    {body(io.MultiReader(strings.NewReader("{}"), iotest.ErrReader(io.ErrUnexpectedEOF))), "unexpected EOF"},
		"no connection":     {func(*http.Request) (*http.Response, error) { return nil, errors.New("down") }, "down"},
		"status": {func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusTeapot, Body: http.NoBody}, nil
		}, "answered 418"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := issuer.NewReader(&http.Client{Transport: tt.transport}, false).Get(t.Context(), "https://id.example.com/keys")
			if tt.want == "" {
				require.NoError(t, err)
				require.Len(t, got, limit)
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "https://id.example.com/keys") || got != nil {
				t.Errorf("%d bytes and the error %v, want one that names the document and says %q", len(got), err, tt.want)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// D18: what net/http unpacks by itself counts as it is unpacked.
func TestGetUnpacks(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := io.CopyN(w, endless{}, 4<<20)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Less(t, packed.Len(), 512<<10, "the control: packed, it is small enough")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Error("the control: net/http does not ask for gzip")
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}))
	defer server.Close()
	_, err = issuer.NewReader(server.Client(), false).Get(t.Context(), server.URL)
	require.ErrorIs(t, err, issuer.ErrTooLong)
}

// Any member can be discovered; whose word is taken, the tests of package atjwt show.
func TestDiscover(t *testing.T) {
	const document = `{"issuer":"https://id.example.com","introspection_endpoint":"https://id.example.com/introspect","jwks_uri":7}`
	get := func(member string) (string, error) {
		reader := issuer.NewReader(&http.Client{Transport: body(strings.NewReader(document))}, false)
		return reader.Discover(t.Context(), "https://id.example.com", member)
	}
	at, err := get("introspection_endpoint")
	require.NoError(t, err)
	require.Equal(t, "https://id.example.com/introspect", at)
	for _, member := range []string{"token_endpoint", "jwks_uri"} {
		_, err = get(member)
		require.ErrorContains(t, err, "have no "+member)
	}
}
