package introspect

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/senderbound/senderbound/internal/issuer"
)

// A Config says whom to ask and what to believe. Authenticate, one of Endpoint and Issuer, and Audience are required. For
// every other field the zero value is the strict choice, and what weakens is called Allow… or Insecure….
type Config struct {
	// Issuer is the authorization server, exactly as its metadata and the member iss of its answers spell it. Answers about
	// tokens of another one are refused; one without iss is about a token of this one. Without Issuer, iss is not checked.
	Issuer string

	// Endpoint is its introspection endpoint. The default is what the metadata of Issuer say (RFC 8414, or OpenID Connect
	// Discovery). Errors show it without its query.
	Endpoint string

	// Audience is the name of this resource: the member aud must hold it.
	Audience string
	// AllowAnyAudience does without Audience: for servers that leave aud out, or that answer "active" only to the resource a
	// token is meant for, as Keycloak 26.7 does. With another server a token for any resource would do.
	AllowAnyAudience bool

	// Authenticate adds to a request what tells the server who asks (RFC 7662 §2.1): a field of the header or of the form.
	// See BasicAuth, ClientSecretPost, PrivateKeyJWT, Bearer and MutualTLS. It may be called by any number of goroutines,
	// must return when the request's context ends, and its error must hold no secret.
	Authenticate func(*http.Request, url.Values) error

	// CacheTTL is how long an answer "active" is used again at most, counted from when the server was asked, and never past
	// the token's exp; 0 means not at all, the most is 5 minutes. It is how long a revoked token may still pass.
	CacheTTL time.Duration
	// CacheEntries is how many active tokens, and how many inactive ones, are remembered at most; default 10,000.
	CacheEntries int
	// NegativeTTL is how long a token that was refused is refused without asking again; default 5 s, the most 5 minutes.
	NegativeTTL time.Duration
	// NoNegativeCache asks again each time.
	NoNegativeCache bool

	// MaxCalls is how many calls may be under way at the same time, so that made-up tokens cannot become a flood; default 64.
	// Up to 1,024 more tokens wait; others cannot be told at once.
	MaxCalls int
	// Timeout is how long one call, and waiting for it, may take; default 5 s, the most a minute.
	Timeout time.Duration
	// Leeway is how far ahead of this server's clock nbf may lie; default 10 s, the most 60 s. exp gets none.
	Leeway time.Duration

	// HTTPClient makes the calls; the default uses http.DefaultTransport. A client certificate (RFC 8705 §2) belongs into its
	// transport. One that does not verify the server's certificate (InsecureSkipVerify) is refused, as far as can be seen: not
	// in a RoundTripper of another type than *http.Transport, nor in a DialTLS function. No redirect is followed.
	HTTPClient *http.Client
	// InsecureHTTP permits Issuer and Endpoint to be plain http. Loopback addresses may always be.
	InsecureHTTP bool

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// The defaults of Config.
const (
	DefaultCacheEntries = 10_000
	DefaultNegativeTTL  = 5 * time.Second
	DefaultMaxCalls     = 64
	DefaultTimeout      = 5 * time.Second
	DefaultLeeway       = 10 * time.Second
)

const maxTTL = 5 * time.Minute

// withDefaults returns a copy of c with its defaults filled in, and every mistake in it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("introspect: Config."+format, args...))
	}

	if c.Issuer == "" && c.Endpoint == "" {
		wrong("Endpoint and Issuer are empty: set the introspection endpoint, or the issuer whose metadata name it")
	}
	for _, u := range []struct{ name, value string }{{"Issuer", c.Issuer}, {"Endpoint", c.Endpoint}} {
		if u.value != "" {
			if err := issuer.CheckURL(u.value, c.InsecureHTTP); err != nil {
				wrong("%s %w: set an https URL", u.name, err)
			}
		}
	}
	if strings.ContainsAny(c.Issuer, "?#") {
		wrong("Issuer has a query or a fragment, which no issuer's identifier has: leave it out")
	}
	if c.Audience == "" && !c.AllowAnyAudience {
		wrong(`Audience is empty: set the name by which the server knows this resource, or AllowAnyAudience`)
	}
	if c.Audience != "" && c.AllowAnyAudience {
		wrong("Audience is %q, and AllowAnyAudience is set: set one of them", c.Audience)
	}
	if c.Authenticate == nil {
		wrong("Authenticate is nil: set how this resource authenticates, such as BasicAuth")
	}
	c.HTTPClient = cmp.Or(c.HTTPClient, http.DefaultClient)
	if err := issuer.CheckClient(c.HTTPClient); err != nil {
		wrong("HTTPClient %w", err)
	}
	if c.NoNegativeCache && c.NegativeTTL != 0 {
		wrong("NegativeTTL is %v, and NoNegativeCache is set: set one of them", c.NegativeTTL)
	}
	c.checkNumbers(wrong)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}

// checkNumbers fills in the numbers of c that are 0.
func (c *Config) checkNumbers(wrong func(format string, args ...any)) {
	for _, d := range []struct {
		name       string
		value      *time.Duration
		zero, most time.Duration
	}{
		{"CacheTTL", &c.CacheTTL, 0, maxTTL},
		{"NegativeTTL", &c.NegativeTTL, DefaultNegativeTTL, maxTTL},
		{"Timeout", &c.Timeout, DefaultTimeout, time.Minute},
		{"Leeway", &c.Leeway, DefaultLeeway, time.Minute},
	} {
		if *d.value < 0 || *d.value > d.most {
			wrong("%s is %v: set a positive duration of at most %v, or 0 for %v", d.name, *d.value, d.most, d.zero)
		}
		*d.value = cmp.Or(*d.value, d.zero)
	}
	for _, n := range []struct {
		name  string
		value *int
		zero  int
	}{{"CacheEntries", &c.CacheEntries, DefaultCacheEntries}, {"MaxCalls", &c.MaxCalls, DefaultMaxCalls}} {
		if *n.value < 0 {
			wrong("%s is %d: set a positive number, or 0 for %d", n.name, *n.value, n.zero)
		}
		*n.value = cmp.Or(*n.value, n.zero)
	}
}
