package main

import (
	"strings"
	"testing"
)

// The checks that are found in a piece of code, and the code with a switch at each.
func TestFind(t *testing.T) {
	const source = `package p

func f(a, b []int) (int, error) {
	if len(a) == 0 || g(b) && !h(a) {
		return 0, errEmpty
	}
	x, err := k()
	if err != nil {
		return 0, err
	}
	if b != nil {
		if x < b[0] {
			return 0, refuse("small")
		}
	}
	switch {
	case x > 9:
		return 0, &refusal{}
	case x > 5 && x != 7:
		return x, nil
	}
	return 0, checkRest(x)
}

func g(b []int) bool { return len(b) > 1 && (h(b) || b[0] == 1) }
`
	want := []string{
		"f: len(a) == 0 || g(b) && !h(a)", "f: len(a) == 0", "f: g(b) && !h(a)", "f: x, err := k(); err != nil", "f: b != nil", "f: x < b[0]", "f: x > 9",
		"f: x > 5 && x != 7", "f: x > 5", "f: x != 7", "f: checkRest(x)",
		"g: len(b) > 1 && (h(b) || b[0] == 1)", "g: len(b) > 1", "g: (h(b) || b[0] == 1)",
	}
	pkg, checks, err := find("p.go", []byte(source))
	if err != nil || pkg != "p" {
		t.Fatalf("package %q, %v", pkg, err)
	}
	var got []string
	for _, c := range checks {
		got = append(got, c.function+": "+c.text)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	text := string(rewrite([]byte(source), checks, 100))
	for _, line := range []string{
		"if ((((len(a) == 0) && !deletedCheck(101)) || ((g(b) && !h(a)) && !deletedCheck(102))) && !deletedCheck(100)) {",
		"case ((((x > 5) || deletedCheck(108)) && ((x != 7) || deletedCheck(109))) || deletedCheck(107)):",
		"if deletedCheck(110) { return 0, nil }; return 0, checkRest(x)",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the switches are not at\n%s\nin\n%s", line, text)
		}
	}
	if _, again, err := find("p.go", []byte(text)); err != nil {
		t.Errorf("with %d switches it does not parse: %v", len(again), err)
	}
}
