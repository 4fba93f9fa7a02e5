package house

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/rows.md")

const root = "../../"

// TestRows holds the checklist in rows.txt against the tests: each row has one that names it, each row that a test names
// is in the list, and docs/rows.md shows both.
func TestRows(t *testing.T) {
	named := map[string]map[string][]string{} // row → package or "vectors" → tests or files that name it
	name := func(row, place, test string) {
		if named[row] == nil {
			named[row] = map[string][]string{}
		}
		if !slices.Contains(named[row][place], test) {
			named[row][place] = append(named[row][place], test)
		}
	}
	namedByTests(t, name)
	namedByVectors(t, name)

	list, err := os.ReadFile("rows.txt")
	require.NoError(t, err)
	var doc strings.Builder
	doc.WriteString(rowsIntro)
	for line := range strings.Lines(string(list)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		row := strings.SplitN(strings.TrimSuffix(line, "\n"), " | ", 3)
		require.Len(t, row, 3, line)
		if len(named[row[0]]) == 0 {
			t.Errorf("%s: no test names it (%s)", row[0], row[2])
		}
		fmt.Fprintf(&doc, "| %s | %s | %s | %s |\n", row[0], row[1], row[2], places(named[row[0]]))
		delete(named, row[0])
	}
	for row, found := range named {
		t.Errorf("%s is not in rows.txt: give it a line there, since it is named by %s", row, places(found))
	}

	const file = root + "docs/rows.md"
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(doc.String()), 0o644))
	}
	if have, err := os.ReadFile(file); err != nil || string(have) != doc.String() {
		t.Error("docs/rows.md is out of date: run go test -run TestRows ./internal/house -update")
	}
}

// places writes who names a row: "`dpop` TestA, TestB; vectors: form.json".
func places(found map[string][]string) string {
	var list []string
	for _, place := range slices.Sorted(maps.Keys(found)) {
		slices.Sort(found[place])
		list = append(list, place+" "+strings.Join(found[place], ", "))
	}
	return strings.Join(list, "; ")
}

const rowsIntro = `# Rows: what must hold, and the tests that hold it

The ids are those of this project's own checklist, which was collected from the specifications and from attacks that were
tried on other implementations: R for what a specification asks for, A to F for attacks. A test names the rows that it is
about at the start of its name or comment, of a subtest's name, or of a message, and a test vector in its field ` + "`rows`" + `. A
test of the project (` + "`internal/house`" + `) fails if a row has none, and makes this page of the tests and of
` + "`internal/house/rows.txt`" + `. Where a row leaves a choice, [policy](policy.md) says what was chosen. Which test falls when a
check is taken away is in [deletions](deletions.md).

| id | source | what must hold; from A on: the attack that must fail | tests |
|---|---|---|---|
`

var (
	// rowsPrefix matches the rows at the start of a name or a message: "R016 …", "A01, A02: …".
	rowsPrefix = regexp.MustCompile(`^(?:(?:R\d{3}|[A-F]\d{2})\b[,:;]? ?)+`)
	rowsOfFunc = regexp.MustCompile(`^(?:Test|Fuzz)((?:R\d{3}|[A-F]\d{2})+)`)
	rowID      = regexp.MustCompile(`R\d{3}|[A-F]\d{2}`)
)

// namedByTests calls name for each row that a subtest's name, a message, or a test function's name or comment begins with.
func namedByTests(t *testing.T, name func(row, place, test string)) {
	fset := token.NewFileSet()
	byFolder := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		// The generator of the vectors names rows as the vectors do, and those count.
		if err != nil || !strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "vectors_make_test.go" {
			return err
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		byFolder[filepath.Dir(path)] = append(byFolder[filepath.Dir(path)], file)
		return err
	})
	require.NoError(t, err)
	for folder, files := range byFolder {
		folder, err := filepath.Rel(root, folder)
		require.NoError(t, err)
		rows, tests := declarations(files)
		for decl, found := range rows {
			for _, test := range tests(decl) {
				for row := range found {
					name(row, "`"+filepath.ToSlash(folder)+"`", test)
				}
			}
		}
	}
}

// declarations returns the rows that each declaration of a package's tests names, and a function that returns the test
// functions that use a declaration: itself, or those that mention it, directly or by way of others.
func declarations(files []*ast.File) (rows map[string]map[string]bool, tests func(decl string) []string) {
	rows = map[string]map[string]bool{}
	users := map[string][]string{}
	visit := func(name string, n ast.Node) {
		rows[name] = map[string]bool{}
		if m := rowsOfFunc.FindStringSubmatch(name); m != nil {
			addRows(rows[name], m[1])
		}
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				users[n.Name] = append(users[n.Name], name)
			case *ast.KeyValueExpr: // a table's key, or the name of its row
				addLiteral(rows[name], n.Key)
				addLiteral(rows[name], n.Value)
			case *ast.CompositeLit:
				for _, element := range n.Elts {
					addLiteral(rows[name], element)
				}
			case *ast.CallExpr: // t.Run, t.Errorf, and helpers that pass a name on
				for _, arg := range n.Args {
					addLiteral(rows[name], arg)
				}
			}
			return true
		})
	}
	for _, file := range files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				visit(d.Name.Name, d)
				addRows(rows[d.Name.Name], rowsPrefix.FindString(d.Doc.Text()))
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						visit(v.Names[0].Name, v)
					}
				}
			}
		}
	}
	return rows, func(decl string) (found []string) {
		seen := map[string]bool{decl: true}
		for queue := []string{decl}; len(queue) > 0; queue = queue[1:] {
			if d := queue[0]; strings.HasPrefix(d, "Test") || strings.HasPrefix(d, "Fuzz") {
				found = append(found, d)
				continue
			}
			for _, user := range users[queue[0]] {
				if !seen[user] {
					seen[user] = true
					queue = append(queue, user)
				}
			}
		}
		return found
	}
}

// addLiteral adds the rows that e begins with, if it is a string or begins with one.
func addLiteral(rows map[string]bool, e ast.Expr) {
	for {
		b, ok := e.(*ast.BinaryExpr)
		if !ok {
			break
		}
		e = b.X
	}
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if text, err := strconv.Unquote(lit.Value); err == nil {
			addRows(rows, rowsPrefix.FindString(text))
		}
	}
}

func addRows(rows map[string]bool, text string) {
	for _, row := range rowID.FindAllString(text, -1) {
		rows[row] = true
	}
}

// namedByVectors calls name for each row of a test vector.
func namedByVectors(t *testing.T, name func(row, place, test string)) {
	files, err := filepath.Glob(root + "testdata/vectors/*.json")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var list []struct{ Rows []string }
		if json.Unmarshal(text, &list) != nil {
			continue // keys.json is no list
		}
		for _, v := range list {
			for _, row := range v.Rows {
				name(row, "vectors:", filepath.Base(file))
			}
		}
	}
}
