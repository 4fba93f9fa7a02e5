package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// A check is one condition that keeps something out.
type check struct {
	file, function string
	text           string // the condition, on one line

	// What is written before and after the bytes from…to of the file, so that the check can be switched off.
	from, to      int
	before, after string
}

func (c *check) where() string { return c.file + " " + c.function }
func (c *check) key() string   { return c.where() + ": " + c.text }

// trueRefuses are the functions whose answer "yes" keeps something out. The yes of any other means that all is well.
var trueRefuses = []string{"isBlank", "mentionsScheme", "smallOrder"}

// wording are the functions that only decide what an operator is told.
var wording = []string{"uriCause", "withoutPort", "missing", "unhex"}

// A finder collects the checks of one file.
type finder struct {
	file     string
	fset     *token.FileSet
	source   []byte
	function string
	results  int                   // of function
	refuses  bool                  // whether true, returned by function, refuses
	before   map[ast.Stmt]ast.Stmt // the assignment before an if
	seen     map[string]int        // how often a check of one text was found
	checks   []check
}

// find returns the package of a Go file, and its checks in the order in which they stand there.
//
//   - The condition of an if, or of a case of a switch without tag, whose body refuses or ends in an if that does. It is
//     deleted by never being true.
//   - The condition of one that accepts, or goes on where all others are refused, and what a function of bool answers.
//     It is deleted by always being true.
//   - The operands of || in the former and of && in the latter, each for itself.
//   - A call of check… or parse… whose result is returned. It is deleted by returning nil.
func find(file string, source []byte) (pkg string, checks []check, err error) {
	f := &finder{file: file, fset: token.NewFileSet(), source: source, before: map[ast.Stmt]ast.Stmt{}, seen: map[string]int{}}
	tree, err := parser.ParseFile(f.fset, file, source, parser.SkipObjectResolution)
	if err != nil {
		return "", nil, err
	}
	for _, decl := range tree.Decls {
		if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil && !slices.Contains(wording, d.Name.Name) {
			f.function, f.refuses = d.Name.Name, slices.Contains(trueRefuses, d.Name.Name)
			f.results = 0
			answers := false
			if r := d.Type.Results; r != nil {
				f.results = r.NumFields()
				last := r.List[len(r.List)-1]
				answers = isIdent(last.Type, "bool") && len(last.Names) == 0
			}
			f.walk(d.Body, answers)
		}
	}
	return tree.Name.Name, f.checks, nil
}

// walk visits a function's body; answers says whether the last that it returns is a bool.
func (f *finder) walk(body ast.Node, answers bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			f.walk(n.Body, false)
			return false
		case *ast.BlockStmt:
			for i := 1; i < len(n.List); i++ {
				if _, ok := n.List[i-1].(*ast.AssignStmt); ok {
					f.before[n.List[i]] = n.List[i-1]
				}
			}
		case *ast.IfStmt:
			f.branch(n.Body.List, f.context(n), n.Cond)
		case *ast.SwitchStmt:
			if n.Tag == nil {
				f.cases(n)
			}
		case *ast.ReturnStmt:
			f.answer(n, answers)
		}
		return true
	})
}

// context returns the assignment that an if is about, as "err := f(); ", if its condition does not speak for itself.
func (f *finder) context(n *ast.IfStmt) string {
	if n.Init != nil {
		return f.src(n.Init) + "; "
	}
	if before := f.before[n]; before != nil && isVague(f.src(n.Cond)) {
		return f.src(before) + "; "
	}
	return ""
}

func isVague(cond string) bool {
	first, _, _ := strings.Cut(strings.TrimLeft(cond, "!"), " ")
	return slices.Contains([]string{"err", "ok", "r", "known", "n"}, first)
}

func (f *finder) cases(n *ast.SwitchStmt) {
	strictDefault := false
	for _, s := range n.Body.List {
		clause := s.(*ast.CaseClause)
		strictDefault = strictDefault || clause.List == nil && f.outcome(clause.Body) == refuses
	}
	for _, s := range n.Body.List {
		clause := s.(*ast.CaseClause)
		f.branch(clause.Body, "", clause.List...)
		if strictDefault && f.outcome(clause.Body) == goesOn { // what is none of these is refused
			for _, cond := range clause.List {
				f.condition(cond, false, "")
			}
		}
	}
}

func (f *finder) answer(n *ast.ReturnStmt, answers bool) {
	if len(n.Results) == 0 || len(n.Results) < f.results {
		return
	}
	last := n.Results[len(n.Results)-1]
	if name := called(last); strings.HasPrefix(name, "check") || strings.HasPrefix(name, "parse") {
		call := f.src(last)
		f.add(call, n, "if "+off+" { "+strings.TrimSuffix(f.src(n), call)+"nil }; ", "")
	} else if answers && !isIdent(last, "true", "false") {
		f.condition(last, f.refuses, "")
	}
}

// branch adds what decides about a body that refuses or accepts.
func (f *finder) branch(body []ast.Stmt, context string, conds ...ast.Expr) {
	if o := f.outcome(body); o != goesOn {
		for _, cond := range conds {
			f.condition(cond, o == refuses, context)
		}
	}
}

// condition adds cond and its parts; yes says whether it refuses when it is true.
func (f *finder) condition(cond ast.Expr, yes bool, context string) {
	f.constant(cond, !yes, context+f.src(cond))
	f.operands(cond, yes, " in "+context+f.src(cond))
}

// operands adds the parts of cond whose deletion lets more pass.
func (f *finder) operands(cond ast.Expr, yes bool, whole string) {
	switch e := cond.(type) {
	case *ast.ParenExpr:
		f.operands(e.X, yes, whole)
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			f.operands(e.X, !yes, whole)
		}
	case *ast.CallExpr: // slices.ContainsFunc(list, func(…) bool { return … })
		for _, arg := range e.Args {
			if lit, ok := arg.(*ast.FuncLit); ok && len(lit.Body.List) == 1 {
				if ret, ok := lit.Body.List[0].(*ast.ReturnStmt); ok {
					f.operands(ret.Results[0], yes, whole)
				}
			}
		}
	case *ast.BinaryExpr:
		if e.Op != token.LAND && e.Op != token.LOR {
			return
		}
		for _, part := range []ast.Expr{e.X, e.Y} {
			inner, ok := part.(*ast.BinaryExpr)
			chain := ok && inner.Op == e.Op // its own operands are added instead
			if (e.Op == token.LOR) == yes && !chain {
				shown := f.src(part)
				if isVague(shown) {
					shown += whole
				}
				f.constant(part, !yes, shown)
			}
			f.operands(part, yes, whole)
		}
	}
}

// constant adds a check that is deleted by giving cond this value. cond is evaluated still, since it may read on.
func (f *finder) constant(cond ast.Expr, value bool, shown string) {
	if value {
		f.add(shown, cond, "((", ") || "+off+")")
	} else {
		f.add(shown, cond, "((", ") && !"+off+")")
	}
}

// add adds the check shown, which is switched off by what is written before and after at.
func (f *finder) add(shown string, at ast.Node, before, after string) {
	c := check{
		file: f.file, function: f.function, text: strings.Join(strings.Fields(shown), " "),
		from: f.fset.Position(at.Pos()).Offset, to: f.fset.Position(at.End()).Offset, before: before, after: after,
	}
	if f.seen[f.function+c.text]++; f.seen[f.function+c.text] > 1 {
		c.text += fmt.Sprintf(" (%d)", f.seen[f.function+c.text])
	}
	f.checks = append(f.checks, c)
}

// off stands for whether a check is switched off. rewrite fills in which.
const off = "deletedCheck(%d)"

// rewrite returns the source with a switch at each of its checks, whose numbers begin with first.
func rewrite(source []byte, checks []check, first int) []byte {
	type insertion struct {
		at, other int // other is the other end of what is switched
		text      string
	}
	var list []insertion
	for i, c := range checks {
		number := func(s string) string { return strings.ReplaceAll(s, "%d", strconv.Itoa(first+i)) }
		list = append(list, insertion{c.from, -c.to, number(c.before)}, insertion{c.to, -c.from, number(c.after)})
	}
	// Of two that begin at one place the longer one opens first, and of two that end there the shorter one closes first.
	slices.SortStableFunc(list, func(a, b insertion) int { return cmp.Or(a.at-b.at, a.other-b.other) })
	var out []byte
	done := 0
	for _, in := range list {
		out = append(append(out, source[done:in.at]...), in.text...)
		done = in.at
	}
	return append(out, source[done:]...)
}

func (f *finder) src(n ast.Node) string {
	return string(f.source[f.fset.Position(n.Pos()).Offset:f.fset.Position(n.End()).Offset])
}

type outcome int

const (
	goesOn outcome = iota
	refuses
	accepts
)

// outcome says what a body ends in, by the last value that it returns.
func (f *finder) outcome(body []ast.Stmt) outcome {
	if len(body) == 0 {
		return goesOn
	}
	switch s := body[len(body)-1].(type) {
	case *ast.ExprStmt:
		if called(s.X) == "wrong" { // a mistake in a Config
			return refuses
		}
	case *ast.IfStmt:
		if f.outcome(s.Body.List) == refuses {
			return refuses
		}
	case *ast.ReturnStmt:
		if len(s.Results) > 0 {
			return f.verdict(s.Results[len(s.Results)-1])
		}
	}
	return goesOn
}

func (f *finder) verdict(last ast.Expr) outcome {
	if u, ok := last.(*ast.UnaryExpr); ok {
		last = u.X
	}
	switch last := last.(type) {
	case *ast.CompositeLit: // &refusal{…}, statusError{…}
		if typ, ok := last.Type.(*ast.Ident); ok && (typ.Name == "refusal" || typ.Name == "statusError") {
			return refuses
		}
	case *ast.CallExpr:
		switch name := called(last); {
		case slices.Contains([]string{"refuse", "missing", "unavailable", "Errorf", "New"}, name), strings.HasPrefix(name, "check"):
			return refuses
		}
		return goesOn // another function decides
	case *ast.BasicLit:
		if last.Value == "0" || last.Value == `""` {
			return refuses
		}
	case *ast.Ident:
		if isIdent(last, "true", "false") {
			if (last.Name == "true") == f.refuses {
				return refuses
			}
		} else if last.Name == "r" || strings.HasPrefix(last.Name, "err") {
			return refuses
		}
	}
	return accepts
}

func isIdent(e ast.Expr, names ...string) bool {
	id, ok := e.(*ast.Ident)
	return ok && slices.Contains(names, id.Name)
}

// called returns the name of the function or method that e calls, or "".
func called(e ast.Expr) string {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return ""
	}
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}
