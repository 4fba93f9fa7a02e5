package redisstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// This file speaks RESP (2 and 3) over a connection that no client has yet. What a server is must be known before the first
// proof is recorded there, over the same connection: behind an address there may be another server at the next one. No client
// library lets go of a connection that it has used, nor asks in between.

// A serverError is an error reply, as newServerError makes it. Its text begins with a code, such as NOAUTH.
type serverError string

func (e serverError) Error() string { return string(e) }

// newServerError returns what may be shown of an error reply. Servers repeat commands in them, in quotes or brackets, and
// with them keys and passwords. secrets are those that the command had.
func newServerError(text string, secrets ...string) serverError {
	if i := strings.IndexAny(text, "`\"[{\r\n"); i >= 0 {
		text = text[:i]
	}
	text, _, _ = strings.Cut(" "+text, " '") // but not in "can't"
	text = strings.TrimSpace(text)
	for _, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			text, _, _ = strings.Cut(text, " ")
			text = strings.ReplaceAll(text, secret, "")
		}
	}
	if text = strings.TrimRight(text[:min(len(text), maxError)], " ,:("); text == "" {
		text = "ERR"
	}
	return serverError(text)
}

// Limits of replies: more than any of those that are asked for here.
const (
	maxReplies = 4 << 20 // of all on a connection, in bytes
	maxText    = 1 << 20 // of a text, in bytes
	maxItems   = 1 << 10 // of an aggregate
	maxDepth   = 8
	maxError   = 200 // of what is shown of an error, in bytes
)

// over returns an exchange over conn, which must not be used by anyone else meanwhile.
func over(conn net.Conn) exchange {
	r := bufio.NewReader(io.LimitReader(conn, maxReplies))
	return func(ctx context.Context, commands ...[]string) ([]any, error) {
		deadline, _ := ctx.Deadline()
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
		var out []byte
		for _, args := range commands {
			out = appendCommand(out, args)
		}
		if _, err := conn.Write(out); err != nil {
			return nil, err
		}
		replies := make([]any, len(commands))
		for i := range replies {
			var err error
			if replies[i], err = readReply(r, maxDepth); err != nil {
				return nil, err
			}
		}
		return replies, conn.SetDeadline(time.Time{})
	}
}

func appendCommand(out []byte, args []string) []byte {
	out = fmt.Appendf(out, "*%d\r\n", len(args))
	for _, arg := range args {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return out
}

var errRESP = errors.New("the reply is not RESP: is there a Redis or Infinispan at this address, and is TLS set as it has it?")

// readReply returns nil, a string, a serverError, a []any or a map[string]any. Numbers and booleans are strings here.
func readReply(r *bufio.Reader, depth int) (any, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			err = errRESP
		}
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' || depth == 0 {
		return nil, errRESP
	}
	kind, text := line[0], string(line[1:len(line)-2])
	switch kind {
	case '+', ':', '#', ',', '(':
		return text, nil
	case '-':
		return newServerError(text), nil
	case '_':
		return nil, nil
	case '$', '=', '!', '*', '%', '~', '>':
	default:
		return nil, errRESP
	}
	n, err := strconv.Atoi(text)
	switch {
	case text == "-1":
		return nil, nil // as RESP2 says null
	case err != nil || n < 0:
		return nil, errRESP
	case kind == '$' || kind == '=' || kind == '!':
		return readText(r, kind, n)
	case n > maxItems:
		return nil, errRESP
	case kind == '%':
		return readMap(r, n, depth)
	}
	items := make([]any, n)
	for i := range items {
		if items[i], err = readReply(r, depth-1); err != nil {
			return nil, err
		}
	}
	return items, nil
}

func readText(r *bufio.Reader, kind byte, n int) (any, error) {
	if n > maxText {
		return nil, errRESP
	}
	var b bytes.Buffer // grows as the text comes, whatever its length is said to be
	if _, err := io.CopyN(&b, r, int64(n)+2); err != nil {
		return nil, err
	}
	text, ok := strings.CutSuffix(b.String(), "\r\n")
	switch {
	case !ok:
		return nil, errRESP
	case kind == '!':
		return newServerError(text), nil
	case kind == '=' && n >= 4: // "txt:" says of what kind the text is
		return text[4:], nil
	default:
		return text, nil
	}
}

func readMap(r *bufio.Reader, n, depth int) (any, error) {
	m := make(map[string]any, n)
	for range n {
		key, err := readReply(r, depth-1)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, errRESP
		}
		if m[name], err = readReply(r, depth-1); err != nil {
			return nil, err
		}
	}
	return m, nil
}
