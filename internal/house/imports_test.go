package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/senderbound/senderbound/"

// mayImport says what each package of the root module may import beside the standard library. Arrows go down only: dpop
// knows no store, no issuer and no framework, and a store knows nothing of DPoP.
var mayImport = map[string][]string{
	"replay":                  {},
	"jkt":                     {},
	"internal/jose":           {},
	"internal/house":          {},
	"internal/house/deletion": {},
	"internal/issuer":         {module + "internal/jose"},
	"internal/tokencache":     {},
	"dpop":                    {module + "replay", module + "jkt", module + "internal/jose", module + "internal/tokencache"},
	"dpop/atjwt":              {module + "dpop", module + "jkt", module + "internal/issuer", module + "internal/jose", module + "internal/tokencache", "github.com/lestrrat-go/jwx/v2/"},
	"dpop/dpopclient":         {module + "jkt", "github.com/lestrrat-go/jwx/v2/"},
	"dpop/dpoptest":           {module + "dpop", module + "dpop/dpopclient", module + "jkt", "github.com/lestrrat-go/jwx/v2/"},
	"dpop/nonce":              {},
	"introspect":              {module + "dpop", module + "dpop/dpopclient", module + "internal/issuer", module + "internal/jose", module + "internal/tokencache", "github.com/lestrrat-go/jwx/v2/"},
	"middleware/dpophttp":     {module + "dpop"},
	"middleware/metadata":     {module + "dpop", module + "internal/issuer"},
	"replay/memstore":         {module + "replay", "github.com/allegro/bigcache/v3"},
	"replay/storetest":        {module + "replay"},
	"replay/tieredstore":      {module + "replay"},
}

func TestImports(t *testing.T) {
	for name, imports := range packages(t) {
		allowed, known := mayImport[name]
		if !known {
			t.Errorf("package %s is not in the table: give it a place in the house", name)
			continue
		}
		for _, imported := range imports {
			ok := isStandard(imported) || slices.ContainsFunc(allowed, func(a string) bool {
				return imported == a || strings.HasSuffix(a, "/") && strings.HasPrefix(imported, a)
			})
			if !ok {
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
}

// TestExportedSignatures keeps types of other modules out of the exported API, so that none of them binds our users.
func TestExportedSignatures(t *testing.T) {
	for name := range packages(t) {
		if strings.HasPrefix(name, "internal/") {
			continue
		}
		files := list(t, "-f", `{{range .GoFiles}}{{$.Dir}}/{{.}} {{end}}`, module+name)
		require.Len(t, files, 1)
		for _, filename := range strings.Fields(files[0]) {
			checkExported(t, filename)
		}
	}
}

func checkExported(t *testing.T, filename string) {
	file, err := parser.ParseFile(token.NewFileSet(), filename, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	foreign := make(map[string]bool)
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		if !isStandard(imported) && !strings.HasPrefix(imported, module) {
			name := path.Base(imported)
			if strings.HasPrefix(name, "v") && len(name) == 2 { // a major version, not a name
				name = path.Base(path.Dir(imported))
			}
			foreign[name] = true
		}
	}
	ast.FileExports(file)
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok {
			f.Body = nil
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && foreign[pkg.Name] {
					t.Errorf("%s: %s.%s appears in an exported declaration", filename, pkg.Name, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// packages returns the imports of each package of the root module, without those of its tests.
func packages(t *testing.T) map[string][]string {
	found := make(map[string][]string)
	for _, line := range list(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...") {
		fields := strings.Fields(line)
		found[strings.TrimPrefix(fields[0], module)] = fields[1:]
	}
	return found
}

func list(t *testing.T, args ...string) []string {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(cmd.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	require.NoError(t, err, "go list")
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}
