package dpop

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Code is the error code that the client sees, in the challenge and in the body.
type Code string

// The codes of RFC 6750 §3.1, RFC 9449 §7.1 and §9, and RFC 6749 §4.1.2.1.
const (
	CodeInvalidRequest         Code = "invalid_request"
	CodeInvalidToken           Code = "invalid_token"
	CodeInvalidProof           Code = "invalid_dpop_proof"
	CodeUseNonce               Code = "use_dpop_nonce"
	CodeInsufficientScope      Code = "insufficient_scope"
	CodeTemporarilyUnavailable Code = "temporarily_unavailable"
)

// descriptions are all that a client is ever told of a refusal: nothing here depends on what the client sent.
var descriptions = map[Code]string{
	CodeInvalidRequest:         "The request must carry one access token, in one Authorization header field, and be addressed to this API",
	CodeInvalidToken:           "The access token is invalid, expired, or not usable in this way",
	CodeInvalidProof:           "The DPoP proof is missing, invalid, already used, or not made for this request",
	CodeUseNonce:               "The DPoP proof must carry the nonce of the DPoP-Nonce header field",
	CodeInsufficientScope:      "The access token does not have the scope that this request needs",
	CodeTemporarilyUnavailable: "The request cannot be checked at the moment",
}

// A Reason names the check that refused a request. It is an error, a log field and a metric label in one, and stays on
// the server: the client sees the [Code] only.
//
// A reason with a dot is a finer form of the part before it: errors.Is(err, ErrTokenInvalid) holds for
// ErrTokenExpired, too. Resolvers may return finer reasons of their own.
type Reason string

// The reasons, in the order in which a request meets the checks.
const (
	ErrNoCredentials          Reason = "no_credentials"          // no Authorization field
	ErrUnsupportedScheme      Reason = "unsupported_scheme"      // a scheme that is neither DPoP nor Bearer
	ErrMalformedAuthorization Reason = "malformed_authorization" // not one scheme and one token, or a token in the query
	ErrBearerNotAllowed       Reason = "bearer_not_allowed"      // the Bearer scheme, where only DPoP is taken
	ErrProofUnderBearer       Reason = "proof_under_bearer"      // a token that is bound to no key, under Bearer, with a proof
	ErrProofMissing           Reason = "proof_missing"           // no DPoP field
	ErrProofMultiple          Reason = "proof_multiple"          // two DPoP fields, or two proofs in one
	ErrProofMalformed         Reason = "proof_malformed"         // not a compact JWS with the members of a proof
	ErrProofType              Reason = "proof_type"              // typ is not dpop+jwt
	ErrProofAlgorithm         Reason = "proof_algorithm"         // alg is not among Config.Algorithms
	ErrProofKey               Reason = "proof_key"               // jwk is not a public key fit for alg
	ErrTargetUnknown          Reason = "target_unknown"          // the request's own target URI is not known
	ErrMethodMismatch         Reason = "htm_mismatch"            // htm is not the request's method
	ErrURIMismatch            Reason = "htu_mismatch"            // htu is not the request's target URI
	ErrTokenHashMismatch      Reason = "ath_mismatch"            // ath is not the hash of the access token
	ErrTokenHashMissing       Reason = "ath_mismatch.missing"    // no ath
	ErrNonceMissing           Reason = "nonce_missing"           // nonces are on and the proof has none
	ErrNonceInvalid           Reason = "nonce_invalid"           // the nonce is not ours, or over
	ErrNonceStale             Reason = "nonce_invalid.stale"     // it is from before the replay store lost its memory
	ErrProofTooOld            Reason = "proof_too_old"           // iat, or exp, is past, or was so when the checks ended
	ErrProofFromFuture        Reason = "proof_from_future"       // iat, or nbf, lies ahead
	ErrProofSignature         Reason = "proof_signature"         // the signature is not by jwk
	ErrTokenInvalid           Reason = "token_invalid"           // unknown, revoked, or refused by a finer reason
	ErrTokenMalformed         Reason = "token_invalid.malformed" // not a token of the form expected
	ErrTokenType              Reason = "token_invalid.type"      // not an access token
	ErrTokenIssuer            Reason = "token_invalid.issuer"    // another issuer's
	ErrTokenAudience          Reason = "token_invalid.audience"  // meant for another resource
	ErrTokenExpired           Reason = "token_invalid.expired"   // past its exp
	ErrTokenNotYetValid       Reason = "token_invalid.not_yet"   // before its nbf
	ErrTokenSignature         Reason = "token_invalid.signature" // not signed by a key of the issuer
	ErrConfirmationUnknown    Reason = "confirmation_unknown"    // cnf has no method that is known here
	ErrTokenUnbound           Reason = "token_unbound"           // no cnf.jkt, under the DPoP scheme
	ErrTokenBound             Reason = "token_bound"             // bound to a key, under the Bearer scheme
	ErrKeyMismatch            Reason = "key_mismatch"            // the proof's key is not the token's
	ErrCertificateMismatch    Reason = "certificate_mismatch"    // the client certificate is not the token's
	ErrProofReplayed          Reason = "proof_replayed"          // the proof was used before
	ErrProofStale             Reason = "proof_stale"             // it may have been: the store lost its memory
	ErrUnavailable            Reason = "unavailable"             // a dependency cannot tell
	ErrResolverUnavailable    Reason = "unavailable.resolver"    // the token resolver
	ErrReplayUnavailable      Reason = "unavailable.replay"      // the replay store
	ErrReplayFull             Reason = "unavailable.replay_full" // the replay store has no room
	ErrInsufficientScope      Reason = "insufficient_scope"      // the token lacks a scope
)

// Error returns the reason's text, which is the same for every request.
func (r Reason) Error() string { return string(r) }

// Is reports whether r is a finer form of target.
func (r Reason) Is(target error) bool {
	coarse, ok := target.(Reason)
	return ok && len(r) > len(coarse) && r[len(coarse)] == '.' && strings.HasPrefix(string(r), string(coarse))
}

// code returns what the client is told for r.
func (r Reason) code() Code {
	switch coarse, _, _ := strings.Cut(string(r), "."); Reason(coarse) {
	case ErrNoCredentials, ErrUnsupportedScheme:
		return "" // RFC 9449 §7.1 and RFC 6750 §3.1: no error code where no credentials came
	case ErrMalformedAuthorization, ErrTargetUnknown:
		return CodeInvalidRequest
	case ErrNonceMissing, ErrNonceInvalid:
		return CodeUseNonce
	case ErrUnavailable:
		return CodeTemporarilyUnavailable
	case ErrInsufficientScope:
		return CodeInsufficientScope
	case ErrBearerNotAllowed, ErrProofUnderBearer, ErrTokenInvalid, ErrConfirmationUnknown, ErrTokenUnbound, ErrTokenBound,
		ErrKeyMismatch, ErrCertificateMismatch:
		return CodeInvalidToken
	}
	return CodeInvalidProof
}

func (c Code) status() int {
	switch c {
	case CodeInvalidRequest:
		return http.StatusBadRequest
	case CodeInsufficientScope:
		return http.StatusForbidden
	case CodeTemporarilyUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

// An Error is a refusal. It knows its own wire form, so any transport can answer with it; [WriteError] does so for HTTP.
//
// Code, Status, Challenges, Nonce and RetryAfter are for the client. Reason and Err stay on the server. errors.Is finds
// the Reason and what Err wraps.
type Error struct {
	Code       Code          // "" where the request carried no credentials
	Reason     Reason        // which check refused
	Status     int           // the HTTP status
	Challenges []string      // the values of the WWW-Authenticate fields, one line each
	Nonce      string        // the value of the DPoP-Nonce field, or ""
	RetryAfter time.Duration // when a retry makes sense, or 0
	Err        error         // the detail or the cause, or nil; holds no token, proof, jti or nonce
}

// Error returns the reason and the detail. It is for the operator, not for the client.
func (e *Error) Error() string {
	if e.Err == nil {
		return "dpop: " + string(e.Reason)
	}
	return "dpop: " + string(e.Reason) + ": " + e.detail()
}

// detail returns the text of Err, without the reason that a resolver's error begins with.
func (e *Error) detail() string { return strings.TrimPrefix(e.Err.Error(), string(e.Reason)+": ") }

// Unwrap returns the Reason and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.Err}
}

// LogValue returns the record for the operator: the reason, the code and status that the client saw, and the detail,
// such as the htu that was expected and the one received, or by how many seconds a clock is off.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("reason", string(e.Reason)), slog.String("code", string(e.Code)), slog.Int("status", e.Status),
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("detail", e.detail()))
	}
	return slog.GroupValue(attrs...)
}

// A refusal is why a check says no. Verify makes the Error of it.
type refusal struct {
	reason     Reason
	detail     error
	nonce      string
	retryAfter time.Duration
}

func refuse(reason Reason, format string, args ...any) *refusal {
	return &refusal{reason: reason, detail: fmt.Errorf(format, args...)}
}

// WriteError answers a request with a refusal: the status, a WWW-Authenticate field for each challenge, at most one
// DPoP-Nonce, Retry-After, and, if there is a code, a JSON body with it and a fixed text. Nothing of what the client sent comes back,
// and the answer must not be cached. An err that is no [*Error] is answered with 500 and says nothing.
func WriteError(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) || e == nil || e.Status < 400 || e.Status > 599 { // one made by hand may be anything
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if len(e.Challenges) > 0 {
		h["Www-Authenticate"] = append([]string(nil), e.Challenges...)
	}
	if e.Nonce != "" {
		h.Set("DPoP-Nonce", e.Nonce)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if e.Code == "" {
		w.WriteHeader(e.Status)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Del("Content-Length")
	w.WriteHeader(e.Status)
	// An answer that cannot be written has no one left to be told.
	_ = json.NewEncoder(w).Encode(struct {
		Error       Code   `json:"error"`
		Description string `json:"error_description"`
	}{e.Code, descriptions[e.Code]})
}
