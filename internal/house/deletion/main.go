// Deletion deletes the checks behind Verify, one at a time, and shows which test falls without it. It changes no file of
// the tree: by way of an overlay, each package is compiled once with a switch at each of its checks, and then tested with
// one of them off. A check that no test misses makes it exit with 1.
//
//	go run ./internal/house/deletion              # all of them, and writes docs/deletions.md
//	go run ./internal/house/deletion -only proof  # those whose file or function matches, and writes nothing
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	parallel = 2
	report   = "docs/deletions.md"
)

// targets are the files that hold checks, and the packages whose tests are to miss them, the nearest first.
var targets = []struct {
	pattern string
	tests   []string
}{
	{"dpop/credentials.go", []string{"dpop"}},
	{"dpop/proof.go", []string{"dpop"}},
	{"dpop/keycache.go", []string{"dpop"}},
	{"dpop/uri.go", []string{"dpop"}},
	{"dpop/token.go", []string{"dpop"}},
	{"dpop/verifier.go", []string{"dpop"}},
	{"dpop/config.go", []string{"dpop"}},
	{"internal/jose/*.go", []string{"internal/jose", "dpop", "dpop/atjwt"}},
	{"jkt/*.go", []string{"jkt", "dpop"}},
	{"dpop/atjwt/token.go", []string{"dpop/atjwt"}},
	{"dpop/atjwt/keys.go", []string{"dpop/atjwt"}},
	{"dpop/atjwt/keyring.go", []string{"dpop/atjwt"}},
}

func main() {
	log.SetFlags(0)
	only := flag.String("only", "", "a regular expression for the checks to delete, by file and function")
	list := flag.Bool("list", false, "show the checks and run nothing")
	flag.Parse()
	chosen, err := regexp.Compile(*only)
	fatal(err)
	dir, err := os.MkdirTemp("", "deletion")
	fatal(err)
	faults := run(dir, chosen, *list, *only == "")
	fatal(os.RemoveAll(dir))
	if faults > 0 {
		os.Exit(1)
	}
}

func run(dir string, chosen *regexp.Regexp, list, whole bool) int {
	t := &trial{dir: dir, overlay: map[string]string{}, binaries: map[string]string{}}
	for _, target := range targets {
		files, err := filepath.Glob(target.pattern)
		fatal(err)
		if len(files) == 0 {
			log.Fatalf("there is no %s: run this at the root of the module", target.pattern)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				t.add(filepath.ToSlash(file), target.tests)
			}
		}
	}
	var todo []int
	for i, c := range t.checks {
		if chosen.MatchString(c.where()) {
			todo = append(todo, i)
			if list {
				fmt.Printf("%s: %s\n", c.where(), c.text)
			}
		}
	}
	if list {
		return 0
	}
	t.build(todo)
	t.tryAll(todo)
	text, faults := t.table(todo, whole)
	if whole {
		fatal(os.WriteFile(report, []byte(text), 0o644))
	} else {
		fmt.Print(text)
	}
	for _, fault := range faults {
		log.Print(fault)
	}
	log.Printf("%d checks, %d faults", len(todo), len(faults))
	return len(faults)
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A trial is all checks, and what became of the tests without each.
type trial struct {
	dir      string
	checks   []check
	tests    [][]string        // of each check: the packages whose tests to run
	falls    []string          // of each check: the first test that fell, or ""
	overlay  map[string]string // file → what is compiled in its place
	binaries map[string]string // package → its compiled tests
}

// add finds the checks of a file and puts switches at them.
func (t *trial) add(file string, tests []string) {
	source, err := os.ReadFile(file)
	fatal(err)
	pkg, found, err := find(file, source)
	fatal(err)
	t.replace(file, rewrite(source, found, len(t.checks)))
	t.replace(filepath.Dir(file)+"/deleted_check.go", fmt.Appendf(nil, switches, pkg))
	for _, c := range found {
		t.checks, t.tests, t.falls = append(t.checks, c), append(t.tests, tests), append(t.falls, "")
	}
}

// switches is compiled into each package. Which check is off is in the environment.
const switches = `package %s

import (
	"os"
	"strconv"
)

var deleted, _ = strconv.Atoi(os.Getenv("DELETED_CHECK"))

func deletedCheck(number int) bool { return number == deleted }
`

func (t *trial) replace(file string, content []byte) {
	original, err := filepath.Abs(file)
	fatal(err)
	t.overlay[original] = filepath.Join(t.dir, strings.ReplaceAll(file, "/", "_"))
	fatal(os.WriteFile(t.overlay[original], content, 0o644))
}

// build compiles the tests that are needed, and runs them with all checks in place: if they fail then, everything does.
func (t *trial) build(todo []int) {
	overlay, err := json.Marshal(map[string]any{"Replace": t.overlay})
	fatal(err)
	name := filepath.Join(t.dir, "overlay.json")
	fatal(os.WriteFile(name, overlay, 0o644))
	for _, i := range todo {
		for _, pkg := range t.tests[i] {
			if t.binaries[pkg] != "" {
				continue
			}
			t.binaries[pkg] = filepath.Join(t.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
			cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay="+name, "-o="+t.binaries[pkg], "./"+pkg)
			cmd.Env = append(cmd.Environ(), "GOWORK=off")
			cmd.Stderr = os.Stderr
			fatal(cmd.Run())
			if test := t.test(pkg, -1); test != "" {
				log.Fatalf("%s falls although nothing is deleted", test)
			}
		}
	}
}

// tryAll deletes one check after another.
func (t *trial) tryAll(todo []int) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				for _, pkg := range t.tests[i] {
					if t.falls[i] = t.test(pkg, i); t.falls[i] != "" {
						break
					}
				}
				falls := cmp.Or(t.falls[i], equivalent[t.checks[i].key()], "NO TEST FALLS")
				log.Printf("%s: %s -> %s", t.checks[i].where(), short(t.checks[i].text), falls)
			}
		})
	}
	for _, i := range todo {
		next <- i
	}
	close(next)
	wg.Wait()
}

var (
	fallen  = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	running = regexp.MustCompile(`running tests:\n\s*(\S+)`)
)

// test runs the tests of a package without one check and returns the first that falls, or "". They get 4 GB of memory:
// without its check a loop may not end, and gather what it reads. Those that measure are left out: switches cost time.
func (t *trial) test(pkg string, number int) string {
	cmd := exec.Command("sh", "-c", `ulimit -v 4194304 2>/dev/null; exec "$0" "$@"`,
		t.binaries[pkg], "-test.failfast", "-test.short", "-test.timeout=40s")
	cmd.Dir = pkg
	cmd.Env = append(cmd.Environ(), fmt.Sprintf("DELETED_CHECK=%d", number))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err == nil {
		return ""
	} else if !errors.As(err, &exit) {
		log.Fatal(err)
	}
	if m := running.FindSubmatch(out); m != nil {
		return string(m[1]) + " (does not end)"
	}
	first := ""
	for _, m := range fallen.FindAllSubmatch(out, -1) { // a test, then those of its subtests that fell
		if first != "" && !strings.HasPrefix(string(m[1]), first+"/") {
			break
		}
		first = string(m[1])
	}
	return cmp.Or(first, "(a panic outside of the tests)")
}

// table returns the report, and what is wrong: checks that no test misses, and excuses that are not needed. whole says
// whether all checks were tried.
func (t *trial) table(todo []int, whole bool) (text string, faults []string) {
	var b strings.Builder
	fmt.Fprintf(&b, intro, time.Now().Format("2 January 2006"), len(todo))
	used := map[string]bool{}
	for _, i := range todo {
		c := t.checks[i]
		key := c.key()
		reason, excused := equivalent[key]
		used[key] = true
		falls := "`" + t.falls[i] + "`"
		switch {
		case t.falls[i] != "" && excused:
			faults = append(faults, fmt.Sprintf("%s: excused, but missed by %s: delete the excuse", key, t.falls[i]))
		case t.falls[i] != "":
		case excused:
			falls = "none: " + reason
		default:
			falls = "**none**"
			faults = append(faults, key+": no test falls without it")
		}
		where := "`" + strings.TrimPrefix(c.file, "internal/") + "` `" + c.function + "`"
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", where, cell(short(c.text)), cell(falls))
	}
	for key := range equivalent {
		if whole && !used[key] {
			faults = append(faults, key+": excused, but not there: delete the excuse")
		}
	}
	return b.String(), faults
}

const intro = `# Checks, each deleted once

Made on %s by ` + "`go run ./internal/house/deletion`" + `, which is part of ` + "`make deep`" + `. It leaves out one check after another
and runs the tests without it: %d checks of the Verifier, of the decoder below it and of the resolver for JWTs, and for each
the first test that falls. A check is a condition that refuses, or a part of one that accepts; it is found in the syntax
tree, and deleted by letting it never refuse. Of several tests that would fall, the first is shown, which is not always the
same. Where none falls, the check makes no difference to what is accepted, most often because another stands behind it; the
table says which. Any other check that no test misses makes the command fail.

| where | check | test that falls without it |
|---|---|---|
`

// cell makes s fit for a cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func short(s string) string {
	if r := []rune(s); len(r) > 90 {
		return string(r[:90]) + " …"
	}
	return s
}
