//go:build integration

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readValue reads one complete value of RESP2 or RESP3. It returns the value's type, the words in it as redis-cli shows
// them, a nil as (nil) and an error as (error) …, and raw followed by the value as it came.
func readValue(r *bufio.Reader, raw []byte) (kind byte, words []string, _ []byte, err error) {
	line, err := r.ReadBytes('\n')
	raw = append(raw, line...)
	if err != nil {
		return 0, nil, raw, err
	}
	head, ok := strings.CutSuffix(string(line[1:]), "\r\n")
	if !ok {
		return 0, nil, raw, fmt.Errorf("%q is no line of RESP", line)
	}
	kind = line[0]
	n := 0
	if strings.IndexByte("$=!*~>%|", kind) >= 0 {
		if n, err = strconv.Atoi(head); err != nil {
			return 0, nil, raw, fmt.Errorf("%q is no length of RESP: %w", line, err)
		}
	}
	switch kind {
	case '+', ':', ',', '(', '#':
		return kind, []string{head}, raw, nil
	case '-':
		return kind, []string{"(error) " + head}, raw, nil
	case '_':
		return kind, []string{"(nil)"}, raw, nil
	case '$', '=', '!':
		if n < 0 {
			return kind, []string{"(nil)"}, raw, nil
		}
		start := len(raw)
		raw = slices.Grow(raw, n+2)[:start+n+2]
		_, err = io.ReadFull(r, raw[start:])
		word := string(raw[start : start+n])
		if kind == '!' {
			word = "(error) " + word
		}
		return kind, []string{word}, raw, err
	case '*', '~', '>', '%', '|':
		if n < 0 {
			return kind, []string{"(nil)"}, raw, nil
		}
		if kind == '%' || kind == '|' {
			n *= 2
		}
		for range n {
			var more []string
			if _, more, raw, err = readValue(r, raw); err != nil {
				return 0, nil, raw, err
			}
			words = append(words, more...)
		}
		if kind == '|' { // attributes: the value that they are about follows
			return readValue(r, raw)
		}
		return kind, words, raw, nil
	}
	return 0, nil, raw, fmt.Errorf("RESP has no type %q", kind)
}

// command returns a command as clients send it.
func command(args ...string) []byte {
	raw := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		raw = fmt.Appendf(raw, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return raw
}

// A respClient is a connection to a server of RESP, for one goroutine. It repeats nothing.
type respClient struct {
	net.Conn
	r *bufio.Reader
}

// dialRESP connects within a few seconds, and logs in if there is a password. What comes later may take as long again.
func dialRESP(addr, user, password string) (*respClient, error) {
	const limit = 5 * time.Second
	conn, err := net.DialTimeout("tcp", addr, limit)
	if err != nil {
		return nil, err
	}
	c := &respClient{conn, bufio.NewReader(conn)}
	err = c.SetDeadline(time.Now().Add(limit))
	if err == nil && password != "" {
		var answer string
		if answer, err = c.do("AUTH", user, password); err == nil && answer != "OK" {
			err = fmt.Errorf("the login is answered %s", answer)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// do sends a command and returns the words of the answer, one to a line.
func (c *respClient) do(args ...string) (string, error) {
	if _, err := c.Write(command(args...)); err != nil {
		return "", err
	}
	return c.answer()
}

// answer returns the next answer, for commands that were sent one after another.
func (c *respClient) answer() (string, error) {
	_, words, _, err := readValue(c.r, nil)
	return strings.Join(words, "\n"), err
}

// ask sends one command over a connection of its own.
func ask(addr, user, password string, args ...string) (string, error) {
	c, err := dialRESP(addr, user, password)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.do(args...)
}
