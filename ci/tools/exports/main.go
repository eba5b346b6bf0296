// Exports prints the exported names that nobody uses outside their own package: those are for the package alone, and
// should begin with a small letter. It exits with 1 where there is one.
//
// usage: exports [-except FILE] [PACKAGES] (./... without), in the folder of a module
//
// A name counts as used where another package names it, tests from outside included. A type counts as used where what
// is used outside hands it out or takes it, by a signature, a field or an embedding; a constant where another of its
// declaration does; a method where the type has it for an interface, or another package's type that embeds it.
// Generated files are left out. A module of its own below the folder counts as a user of every name that its files
// select.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	except := flag.String("except", "", "file with names that may stay, one a line, a reason behind #")
	flag.Parse()
	patterns := flag.Args()
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	n, err := run(*except, patterns)
	if err != nil {
		fmt.Fprintln(os.Stderr, "exports:", err)
		os.Exit(2)
	}
	if n > 0 {
		os.Exit(1)
	}
}

func run(except string, patterns []string) (int, error) {
	may, err := readExcept(except)
	if err != nil {
		return 0, err
	}
	u, err := load(patterns)
	if err != nil {
		return 0, err
	}
	selected, err := selectors(".")
	if err != nil {
		return 0, err
	}
	u.spread()
	n := 0
	for _, o := range u.objects {
		key := keyOf(o)
		short := strings.TrimPrefix(key, u.module+"/")
		if u.used[key] || selected[o.Name()] {
			delete(may, short)
			continue
		}
		if _, ok := may[short]; ok {
			delete(may, short)
			continue
		}
		fmt.Printf("%s: %s is used in its own package alone\n", u.position(o), short)
		n++
	}
	for name := range may {
		fmt.Printf("%s: listed in %s, and does not exist\n", name, except)
		n++
	}
	return n, nil
}

// readExcept reads a list of names with reasons.
func readExcept(path string) (map[string]string, error) {
	may := map[string]string{}
	if path == "" {
		return may, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for line := 1; s.Scan(); line++ {
		name, reason, _ := strings.Cut(s.Text(), "#")
		name, reason = strings.TrimSpace(name), strings.TrimSpace(reason)
		switch {
		case name == "":
		case reason == "":
			return nil, fmt.Errorf("%s:%d: %s has no reason behind #", path, line, name)
		default:
			may[name] = reason
		}
	}
	return may, s.Err()
}

// universe is what the packages declare, and what they use of each other.
type universe struct {
	fset    *token.FileSet
	module  string
	objects []types.Object
	byKey   map[string]types.Object
	groups  map[string][]string // constants that are declared together, by each other's key
	used    map[string]bool     // by key
	faces   []*types.Interface
	wraps   []*types.Named // types that embed a type of another package
}

// base is the path of a package without what marks its variants for tests. A package of tests from outside, NAME_test,
// is another one.
func base(path string) string {
	path, _, _ = strings.Cut(path, " ")
	return path
}

// keyOf names an object alike in all variants of its package: path, receiver, name.
func keyOf(o types.Object) string {
	key := base(o.Pkg().Path()) + "."
	if f, ok := o.(*types.Func); ok {
		if r := f.Signature().Recv(); r != nil {
			if n := named(r.Type()); n != nil {
				key += n.Obj().Name() + "."
			}
		}
	}
	return key + o.Name()
}

func named(t types.Type) *types.Named {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		t = p.Elem()
	}
	n, _ := types.Unalias(t).(*types.Named)
	return n
}

func load(patterns []string) (*universe, error) {
	cfg := &packages.Config{Tests: true, Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports |
		packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedModule}
	list, err := packages.Load(cfg, patterns...)
	if err != nil {
		return nil, err
	}
	u := &universe{byKey: map[string]types.Object{}, groups: map[string][]string{}, used: map[string]bool{}}
	for _, p := range list {
		for _, e := range p.Errors {
			return nil, e
		}
		if p.Module != nil {
			u.module = p.Module.Path
		}
		u.fset = p.Fset
		own := base(p.PkgPath)
		if p.ID == p.PkgPath && p.Name != "main" && !strings.HasSuffix(p.PkgPath, "_test") {
			u.declare(p)
		}
		for _, o := range p.TypesInfo.Uses {
			if o.Pkg() == nil || !o.Exported() || base(o.Pkg().Path()) == own {
				continue
			}
			if f, ok := o.(*types.Func); ok {
				o = f.Origin()
			}
			u.used[keyOf(o)] = true
		}
		u.interfaces(p)
		u.wrappers(p)
	}
	return u, nil
}

// declare notes what a package exports.
func (u *universe) declare(p *packages.Package) {
	generated := map[*token.File]bool{}
	for _, f := range p.Syntax {
		if ast.IsGenerated(f) {
			generated[u.fset.File(f.Pos())] = true
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			var keys []string
			for _, s := range g.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					keys = append(keys, base(p.PkgPath)+"."+n.Name)
				}
			}
			for _, k := range keys {
				u.groups[k] = keys
			}
		}
	}
	add := func(o types.Object) {
		if !o.Exported() || generated[u.fset.File(o.Pos())] {
			return
		}
		u.objects = append(u.objects, o)
		u.byKey[keyOf(o)] = o
	}
	scope := p.Types.Scope()
	for _, name := range scope.Names() {
		o := scope.Lookup(name)
		add(o)
		if t, ok := o.(*types.TypeName); ok && !t.IsAlias() {
			if n, ok := t.Type().(*types.Named); ok {
				for m := range n.Methods() {
					add(m)
				}
			}
		}
	}
}

// interfaces collects the interfaces of a package and of what it imports.
func (u *universe) interfaces(p *packages.Package) {
	scopes := []*types.Scope{p.Types.Scope()}
	for _, im := range p.Types.Imports() {
		scopes = append(scopes, im.Scope())
	}
	for _, s := range scopes {
		for _, name := range s.Names() {
			if t, ok := s.Lookup(name).(*types.TypeName); ok {
				if i, ok := t.Type().Underlying().(*types.Interface); ok && i.NumMethods() > 0 {
					if n, ok := t.Type().(*types.Named); !ok || n.TypeParams().Len() == 0 {
						u.faces = append(u.faces, i)
					}
				}
			}
		}
	}
	u.faces = append(u.faces, types.Universe.Lookup("error").Type().Underlying().(*types.Interface))
	for _, tv := range p.TypesInfo.Types { // interfaces without a name, as errors.As takes
		if i, ok := tv.Type.(*types.Interface); ok && tv.IsType() && i.NumMethods() > 0 {
			u.faces = append(u.faces, i)
		}
	}
}

// wrappers collects a package's types that embed what another package declares.
func (u *universe) wrappers(p *packages.Package) {
	scope := p.Types.Scope()
	for _, name := range scope.Names() {
		t, ok := scope.Lookup(name).(*types.TypeName)
		if !ok {
			continue
		}
		n, ok := t.Type().(*types.Named)
		if !ok || n.TypeParams().Len() > 0 {
			continue
		}
		s, ok := n.Underlying().(*types.Struct)
		if !ok {
			continue
		}
		for f := range s.Fields() {
			if e := named(f.Type()); f.Embedded() && e != nil && e.Obj().Pkg() != nil &&
				strings.HasPrefix(e.Obj().Pkg().Path(), u.module) && base(e.Obj().Pkg().Path()) != base(p.PkgPath) {
				u.wraps = append(u.wraps, n)
				break
			}
		}
	}
}

// promoted marks methods that a type has of what it embeds, for an interface.
func (u *universe) promoted() {
	for _, n := range u.wraps {
		set := types.NewMethodSet(types.NewPointer(n))
		for _, i := range u.faces {
			if !has(types.NewPointer(n), i) {
				continue
			}
			for m := range i.Methods() {
				if s := set.Lookup(m.Pkg(), m.Name()); s != nil && len(s.Index()) > 1 {
					u.used[keyOf(s.Obj())] = true
				}
			}
		}
	}
}

// spread takes what is used by what is used: types in signatures and fields, constants in a declaration, methods for
// interfaces.
func (u *universe) spread() {
	seen := map[types.Type]bool{}
	var reach func(t types.Type)
	mark := func(o types.Object) {
		if o != nil && o.Pkg() != nil && o.Exported() && !u.used[keyOf(o)] {
			u.used[keyOf(o)] = true
		}
	}
	reach = func(t types.Type) {
		if t == nil || seen[t] {
			return
		}
		seen[t] = true
		switch t := types.Unalias(t).(type) {
		case *types.Named:
			if t.Obj().Pkg() == nil || !strings.HasPrefix(t.Obj().Pkg().Path(), u.module) {
				return
			}
			mark(t.Obj())
			reach(t.Underlying())
			for a := range t.TypeArgs().Types() {
				reach(a)
			}
		case *types.Pointer:
			reach(t.Elem())
		case *types.Slice:
			reach(t.Elem())
		case *types.Array:
			reach(t.Elem())
		case *types.Chan:
			reach(t.Elem())
		case *types.Map:
			reach(t.Key())
			reach(t.Elem())
		case *types.Struct:
			for f := range t.Fields() {
				if f.Exported() {
					reach(f.Type())
				}
			}
		case *types.Signature:
			for v := range t.Params().Variables() {
				reach(v.Type())
			}
			for v := range t.Results().Variables() {
				reach(v.Type())
			}
		case *types.Interface:
			for m := range t.Methods() {
				mark(m)
				reach(m.Type())
			}
		}
	}
	u.promoted()
	for changed := true; changed; {
		before := len(u.used)
		for _, o := range u.objects {
			k := keyOf(o)
			if f, ok := o.(*types.Func); ok && !u.used[k] && u.forInterface(f) {
				u.used[k] = true
			}
			if !u.used[k] {
				continue
			}
			reach(o.Type())
			for _, other := range u.groups[k] {
				u.used[other] = true
			}
		}
		changed = len(u.used) != before
	}
}

// forInterface says whether a method is one that an interface asks for and the whole type has.
func (u *universe) forInterface(f *types.Func) bool {
	r := f.Signature().Recv()
	if r == nil {
		return false
	}
	n := named(r.Type())
	if n == nil || n.TypeParams().Len() > 0 {
		return false
	}
	if slices.Contains(foreign, f.Name()) {
		return true
	}
	for _, i := range u.faces {
		for m := range i.Methods() {
			if m.Name() == f.Name() && (has(n, i) || has(types.NewPointer(n), i)) {
				return true
			}
		}
	}
	return false
}

// foreign are methods that a package finds by a type assertion on an interface without a name, or that no package here
// imports: errors, encoding/json, grpc/status.
var foreign = []string{"Unwrap", "Is", "As", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON",
	"GRPCStatus",
	"CloseRead", "CloseWrite"}

// has says whether a type has an interface's methods, by their names and, lest variants of packages differ, the text of
// their signatures.
func has(t types.Type, i *types.Interface) bool {
	set := types.NewMethodSet(t)
	for m := range i.Methods() {
		s := set.Lookup(m.Pkg(), m.Name())
		if s == nil || shape(s.Obj().Type()) != shape(m.Type()) {
			return false
		}
	}
	return true
}

// shape is a signature as text, without names of parameters.
func shape(t types.Type) string {
	s := t.(*types.Signature)
	var b strings.Builder
	for v := range s.Params().Variables() {
		b.WriteString(types.TypeString(v.Type(), nil) + ",")
	}
	fmt.Fprint(&b, s.Variadic(), "->")
	for v := range s.Results().Variables() {
		b.WriteString(types.TypeString(v.Type(), nil) + ",")
	}
	return b.String()
}

// selectors are all names that files in modules below dir select.
func selectors(dir string) (map[string]bool, error) {
	out := map[string]bool{}
	var modules []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && p != dir && (strings.HasPrefix(e.Name(), ".") || e.Name() == "out" || e.Name() == "bin") {
			return filepath.SkipDir
		}
		if e.Name() == "go.mod" && filepath.Dir(p) != filepath.Clean(dir) {
			modules = append(modules, filepath.Dir(p)+"/")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, m := range modules {
		err := filepath.WalkDir(m, func(p string, e fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(p) != ".go" {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ours := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool {
				return strings.Contains(i.Path.Value, "katabuild/")
			})
			if !ours {
				return nil
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					out[s.Sel.Name] = true
				}
				return true
			})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// position is where an object is declared, from the working folder.
func (u *universe) position(o types.Object) string {
	pos := u.fset.Position(o.Pos())
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, pos.Filename); err == nil {
			pos.Filename = rel
		}
	}
	pos.Column = 0
	return pos.String()
}
