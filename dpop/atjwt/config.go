package atjwt

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/senderbound/senderbound/internal/issuer"
	"github.com/senderbound/senderbound/internal/jose"
)

// A Config says which access tokens a [Resolver] believes. Issuer and Audience are required. For every other field the
// zero value is the strict choice, and what weakens is called Allow… or Insecure….
type Config struct {
	// Issuer is the issuer identifier, exactly as the claim iss and the issuer's metadata spell it: an https URL without
	// query and fragment (RFC 8414 §2).
	Issuer string

	// Audience is the name of this resource: the claim aud must hold it (RFC 9068 §4).
	Audience string

	// JWKSURI is where the issuer's keys are. The default is what the issuer's metadata say: RFC 8414 or, where the
	// issuer has none of these, OpenID Connect Discovery.
	JWKSURI string

	// AllowHeaderTypes are media types that the header typ may have besides at+jwt (RFC 9068 §2.1). They are compared
	// without regard to letter case or to the prefix application/; "" stands for a header without typ. Many
	// issuers put "JWT" into ID tokens and access tokens alike: then set PayloadTypes, or give ID tokens another audience.
	AllowHeaderTypes []string

	// PayloadTypes, if set, makes the claim typ required, and one of these. Keycloak tells its kinds of token apart by it.
	PayloadTypes []string

	// ClientIDClaim is the claim with the client's identifier; the default is client_id (RFC 9068 §2.2).
	ClientIDClaim string

	// AllowMissingClaims are those of the claims sub, client_id, iat and jti that a token may lack although RFC 9068 §2.2
	// requires them. client_id stands for ClientIDClaim. iss, aud and exp are never optional.
	AllowMissingClaims []string

	// Algorithms are those a token may be signed with; the default is ES256, ES384, EdDSA, PS256 and RS256. EdDSA and
	// Ed25519 are two names for one.
	Algorithms []string

	// Leeway is how far ahead of this server's clock nbf and iat may lie; the default is 10 s, and the most is 60 s.
	// exp gets none: Verify is told the same Expiry.
	Leeway time.Duration

	// CacheEntries is how many verified tokens are remembered at most; the default is 10,000. One takes some 2 KB.
	CacheEntries int

	// CacheTTL is how long a verified token is remembered at most, and never past its exp; the default is 5 minutes, the
	// most 24 hours.
	CacheTTL time.Duration

	// NoCache makes every request verify its token's signature again.
	NoCache bool

	// RefreshInterval is how often the keys are fetched, and so how long a key that the issuer has withdrawn is still
	// believed; the default is 5 minutes, the most 24 hours. While the issuer cannot be reached, its last good keys stay in use.
	RefreshInterval time.Duration

	// MinRefreshInterval is the least time from one fetch to the next, whatever the requests ask for, and so how long a
	// new key may be unknown; the default is 5 seconds, or RefreshInterval if that is less.
	MinRefreshInterval time.Duration

	// HTTPClient fetches metadata and keys; the default uses http.DefaultTransport. Its CheckRedirect is asked after
	// ours, which follows redirects only within one origin. One that does not verify certificates (InsecureSkipVerify) is
	// refused, as far as can be seen.
	HTTPClient *http.Client

	// InsecureHTTP permits Issuer, JWKSURI and the metadata's jwks_uri to be plain http. Loopback addresses may always be.
	InsecureHTTP bool

	// Logger gets a record when keys change and when a fetch fails, never one with a token. nil is silent.
	Logger *slog.Logger

	// Now is the clock that tokens and the cache are judged by; nil means time.Now. Fetches keep to real time.
	Now func() time.Time
}

// Keycloak returns the Config for the access tokens of a Keycloak realm, such as https://id.example.com/realms/demo, that
// are meant for audience.
//
// Keycloak gives access tokens the header typ JWT, as it does to ID tokens, and tells them apart by the claim typ, which
// must be Bearer or DPoP. The client's identifier is in azp.
func Keycloak(realmURL, audience string) Config {
	return Config{
		Issuer:           strings.TrimRight(realmURL, "/"), // Keycloak's own iss never ends in one
		Audience:         audience,
		AllowHeaderTypes: []string{"JWT"},
		PayloadTypes:     []string{"Bearer", "DPoP"},
		ClientIDClaim:    "azp",
	}
}

// The defaults of Config.
const (
	DefaultLeeway             = 10 * time.Second
	DefaultCacheEntries       = 10_000
	DefaultCacheTTL           = 5 * time.Minute
	DefaultRefreshInterval    = 5 * time.Minute
	DefaultMinRefreshInterval = 5 * time.Second
)

const (
	// maxLeeway is the most that FAPI 2.0 lets a server accept.
	maxLeeway = 60 * time.Second
	// maxInterval is the most that any duration may be: what is longer is no refresh.
	maxInterval = 24 * time.Hour
)

// waivable are the claims that RFC 9068 §2.2 requires and AllowMissingClaims may name.
var waivable = []string{"sub", "client_id", "iat", "jti"}

// withDefaults returns a copy of c with its defaults filled in, and every mistake in it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf("atjwt: Config."+format, args...)) }

	if err := issuer.CheckURL(c.Issuer, c.InsecureHTTP); err != nil {
		wrong("Issuer %w: set the issuer's identifier, such as https://id.example.com", err)
	} else if strings.ContainsAny(c.Issuer, "?#") {
		wrong("Issuer is %q: an issuer's identifier has neither query nor fragment", c.Issuer)
	}
	if c.Audience == "" {
		wrong(`Audience is empty: set the name by which the issuer knows this resource, which its tokens have in "aud"`)
	}
	if c.JWKSURI != "" {
		if err := issuer.CheckURL(c.JWKSURI, c.InsecureHTTP); err != nil {
			wrong("JWKSURI %w: set the URL of the issuer's keys, or leave it empty for discovery", err)
		}
	}
	if slices.Contains(c.PayloadTypes, "") {
		wrong("PayloadTypes has an empty type: name the values that the claim typ may have, or leave the list empty")
	}
	for _, claim := range c.AllowMissingClaims {
		if !slices.Contains(waivable, claim) {
			wrong("AllowMissingClaims has %q: only %s may be missing", claim, strings.Join(waivable, ", "))
		}
	}
	for _, alg := range c.Algorithms {
		if !jose.Known(alg) {
			wrong("Algorithms has %q: name algorithms with public keys, such as ES256, EdDSA or PS256", alg)
		}
	}
	c.checkNumbers(wrong)

	c.AllowHeaderTypes = mapped(c.AllowHeaderTypes, mediaType)
	c.PayloadTypes = slices.Clone(c.PayloadTypes)
	c.AllowMissingClaims = slices.Clone(c.AllowMissingClaims)
	c.Algorithms = mapped(c.Algorithms, jose.Canonical)
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"ES256", "ES384", "EdDSA", "PS256", "RS256"}
	}
	if c.ClientIDClaim == "" {
		c.ClientIDClaim = "client_id"
	}
	if c.HTTPClient == nil {
		c.HTTPClient = http.DefaultClient
	}
	if err := issuer.CheckClient(c.HTTPClient); err != nil {
		wrong("HTTPClient %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}

// checkNumbers fills in the numbers of c that are 0.
func (c *Config) checkNumbers(wrong func(format string, args ...any)) {
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"Leeway", &c.Leeway, DefaultLeeway},
		{"CacheTTL", &c.CacheTTL, DefaultCacheTTL},
		{"RefreshInterval", &c.RefreshInterval, DefaultRefreshInterval},
		{"MinRefreshInterval", &c.MinRefreshInterval, 0}, // its default needs RefreshInterval's
	} {
		if *d.value < 0 {
			wrong("%s is %v: set a positive duration, or 0 for the default", d.name, *d.value)
		} else if *d.value > maxInterval {
			wrong("%s is %v: set at most %v", d.name, *d.value, maxInterval)
		} else if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.Leeway > maxLeeway {
		wrong("Leeway is %v: set at most %v, or correct the clocks", c.Leeway, maxLeeway)
	}
	if c.MinRefreshInterval == 0 {
		c.MinRefreshInterval = min(DefaultMinRefreshInterval, c.RefreshInterval)
	}
	if c.RefreshInterval > 0 && c.MinRefreshInterval > c.RefreshInterval {
		wrong("MinRefreshInterval is %v: set at most RefreshInterval, which is %v", c.MinRefreshInterval, c.RefreshInterval)
	}
	if c.CacheEntries < 0 {
		wrong("CacheEntries is %d: set a positive number, or 0 for %d; NoCache turns the cache off", c.CacheEntries, DefaultCacheEntries)
	} else if c.CacheEntries == 0 {
		c.CacheEntries = DefaultCacheEntries
	}
}

// mediaType returns a header typ in the form in which two of them are compared (RFC 7515 §4.1.9).
func mediaType(typ string) string { return strings.TrimPrefix(strings.ToLower(typ), "application/") }

func mapped(list []string, f func(string) string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = f(s)
	}
	return out
}
