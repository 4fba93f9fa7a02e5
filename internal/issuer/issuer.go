// Package issuer reads what an authorization server publishes, and says which URLs of one may be used.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/senderbound/senderbound/internal/jose"
)

const (
	maxBody      = 512 << 10 // of one answer, in bytes
	maxRedirects = 3
)

// A Reader fetches documents. It may be used by any number of goroutines.
type Reader struct {
	client       http.Client
	insecureHTTP bool
}

// NewReader returns a Reader that uses client, whose CheckRedirect is asked after ours, which follows redirects only
// within one origin. insecureHTTP permits plain http for addresses that are not loopback.
func NewReader(client *http.Client, insecureHTTP bool) *Reader {
	r := &Reader{client: *client, insecureHTTP: insecureHTTP}
	r.client.CheckRedirect = sameOrigin(client.CheckRedirect)
	return r
}

// Discover returns the URL that the metadata of an authorization server have as member: those of RFC 8414 or, if there are
// none, of OpenID Connect Discovery. Any status from 400 to 499 says that there are none: a proxy that publishes only the
// issuer's own path may answer 403 just as well.
func (r *Reader) Discover(ctx context.Context, issuer, member string) (string, error) {
	oauth, openID := metadataURLs(issuer)
	body, err := r.Get(ctx, oauth)
	if status := (statusError{}); errors.As(err, &status) && status.code >= 400 && status.code <= 499 {
		body, err = r.Get(ctx, openID)
	}
	if err != nil {
		return "", err
	}
	return r.readMetadata(body, issuer, member)
}

// metadataURLs returns where an issuer's metadata may be: RFC 8414 §3.1 puts the well-known part before the path of the
// issuer, OpenID Connect Discovery 1.0 §4 after it.
func metadataURLs(issuer string) (oauth, openID string) {
	u, _ := url.Parse(issuer) // CheckURL has parsed it
	path := strings.TrimRight(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	return origin + "/.well-known/oauth-authorization-server" + path, origin + path + "/.well-known/openid-configuration"
}

func (r *Reader) readMetadata(body []byte, issuer, member string) (string, error) {
	var m [2][]byte
	if err := jose.Scan(body, []string{"issuer", member}, m[:]); err != nil {
		return "", fmt.Errorf("the issuer's metadata %w", err)
	}
	name, err := jose.Text(m[0])
	if err != nil || string(name) != issuer {
		// RFC 8414 §3.3: metadata of another issuer must not be used.
		return "", fmt.Errorf("the metadata are those of %.100q; Config.Issuer must be spelled exactly as the issuer does", name)
	}
	text, err := jose.Text(m[1])
	if err != nil {
		return "", fmt.Errorf("the issuer's metadata have no %s; set it in Config", member)
	}
	if err := CheckURL(string(text), r.insecureHTTP); err != nil {
		return "", fmt.Errorf("the %s of the issuer's metadata %w", member, err)
	}
	return string(text), nil
}

// A statusError is an answer that is not 200.
type statusError struct {
	url  string
	code int
}

func (e statusError) Error() string { return fmt.Sprintf("%s answered %d", e.url, e.code) }

// Get returns the body of the document at target.
func (r *Reader) Get(ctx context.Context, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, statusError{target, res.StatusCode}
	}
	body, err := ReadBody(res.Body)
	if err != nil {
		return nil, fmt.Errorf("the answer of %s: %w", target, err)
	}
	return body, nil
}

// ErrTooLong says that an answer was not read to its end.
var ErrTooLong = fmt.Errorf("it has more than %d bytes", maxBody)

// ReadBody returns the body of an answer, if it is not too long.
func ReadBody(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBody {
		return nil, ErrTooLong
	}
	return text, nil
}

// sameOrigin follows a redirect only where it stays with the server that was asked: keys from elsewhere are not the
// issuer's, and whoever can make it redirect should not choose whom we call.
func sameOrigin(then func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		if req.URL.Scheme != first.Scheme || !strings.EqualFold(req.URL.Host, first.Host) {
			return fmt.Errorf("it redirects to another origin, %s://%s", req.URL.Scheme, req.URL.Host)
		}
		if len(via) > maxRedirects {
			return fmt.Errorf("it redirects more than %d times", maxRedirects)
		}
		if then != nil {
			return then(req, via)
		}
		return nil
	}
}

// CheckURL returns an error unless raw is the absolute https URL of a host. Plain http is for loopback addresses, or for
// all if insecureHTTP is set: who can change an answer on its way can make tokens. The error goes on after the name of
// what raw is, and shows no query, in which a key could be.
func CheckURL(raw string, insecureHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("is empty")
	case err != nil: // raw is not shown: a password could be in it
		return errors.New("is not a URL")
	case u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("is %.100q, not an absolute URL", Shown(raw))
	case u.User != nil:
		return errors.New("has a user name in it, which would end up in logs")
	case u.Scheme == "https", u.Scheme == "http" && (insecureHTTP || isLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("is %.100q, which is neither https nor a loopback address (InsecureHTTP permits it)", Shown(raw))
	}
	return fmt.Errorf("is %.100q, not an https URL", Shown(raw))
}

// Shown returns a URL as errors may show it: without query and fragment.
func Shown(raw string) string { return raw[:strings.IndexAny(raw+"?", "?#")] }

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

// CheckClient returns an error if client does not verify certificates, as far as can be seen: not in a RoundTripper of another
// type than *http.Transport, nor in a DialTLS function. The error goes on after the name of what client is.
func CheckClient(client *http.Client) error {
	transport := client.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	t, ok := transport.(*http.Transport)
	if !ok {
		return nil
	}
	// Of a clone, since a transport may be changing this field of its own on its first use.
	if config := t.Clone().TLSClientConfig; config != nil && config.InsecureSkipVerify {
		return errors.New("does not verify certificates (InsecureSkipVerify): put the server's CA into its RootCAs instead")
	}
	return nil
}
