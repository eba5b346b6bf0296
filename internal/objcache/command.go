package objcache

import (
	"path"
	"slices"
	"strings"
)

// command is one call of a compiler that makes one object from one file of C or assembly.
type command struct {
	args         []string // as given, without the program's name
	source       string   // these three as given: below the working folder, or absolute
	object       string
	depfile      string
	search       []string // folders in which headers are looked for, in order; -iquote's first
	forced       []string // files named by -include
	allHeaders   bool     // depfile lists what comes from system folders too (-MD, not -MMD)
	wholeConfig  bool     // the object depends on all of the configuration's text
	systemFolder bool     // headers may come from folders that -MMD leaves out
}

// refusedEnv are variables that change what a compiler reads or writes. GCC: "Environment Variables Affecting GCC".
func refusedEnv() []string {
	return []string{"GCC_EXEC_PREFIX", "COMPILER_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH",
		"OBJC_INCLUDE_PATH", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES", "GCC_COMPARE_DEBUG", "GCC_COLORS",
		"GCC_EXTRA_DIAGNOSTIC_OUTPUT", "CCC_OVERRIDE_OPTIONS"}
}

// messageEnv are variables that change only what a compiler says; they are part of a key.
func messageEnv() []string { return []string{"LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES"} }

// IsCompiler says whether a program's name, with or without its folder, is that of a compiler.
func IsCompiler(name string) bool {
	name = path.Base(name)
	return name == "gcc" || name == "clang" || strings.HasSuffix(name, "-gcc") || strings.HasSuffix(name, "-clang")
}

// parse reads the command line of a compiler. Only what the kernel's makefiles write is taken; everything else, and
// everything that could read or write another file, is not.
func parse(compiler string, args []string) (command, bool) {
	c := command{args: args}
	clang := strings.HasSuffix(compiler, "clang")
	compile, debug := false, false
	var quote, plain, system []string
	nostdinc := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		next := func() (string, bool) {
			i++
			return append(args, "")[i], i < len(args) && args[i] != ""
		}
		ok := true
		var v string
		switch {
		case a == "-c":
			ok, compile = !compile, true
		case a == "-o":
			if v, ok = next(); ok && c.object == "" {
				c.object = v
			} else {
				return c, false
			}
		case a == "-include":
			v, ok = next()
			c.forced = append(c.forced, v)
		case a == "-iquote":
			v, ok = next()
			quote = append(quote, v)
		case a == "-isystem":
			v, ok = next()
			system = append(system, v)
			c.systemFolder = true
		case a == "-I":
			v, ok = next()
			plain = append(plain, v)
		case strings.HasPrefix(a, "-I"):
			plain = append(plain, a[2:])
			ok = a != "-I-" && a[2] != '='
		case a == "-D", a == "-U", a == "--param":
			_, ok = next()
		case a == "-nostdinc":
			nostdinc = true
		case strings.HasPrefix(a, "-Wp,-MMD,"), strings.HasPrefix(a, "-Wp,-MD,"):
			file := a[strings.LastIndexByte(a, ',')+1:]
			ok = c.depfile == "" && file != "" && strings.Count(a, ",") == 2
			c.depfile, c.allHeaders = file, strings.HasPrefix(a, "-Wp,-MD,")
		case strings.HasPrefix(a, "-"):
			ok = harmless(a)
			switch {
			case a == "-g0":
				debug = false
			case strings.HasPrefix(a, "-g"):
				debug = true
				c.wholeConfig = c.wholeConfig || strings.HasSuffix(a, "3")
			}
		default:
			ext := path.Ext(a)
			ok = c.source == "" && (ext == ".c" || ext == ".S")
			c.source = a
		}
		if !ok {
			return c, false
		}
	}
	c.search = slices.Concat(quote, plain, system)
	c.systemFolder = c.systemFolder || !nostdinc
	// Clang notes digests of the files it has read in the debugging information.
	c.wholeConfig = c.wholeConfig || clang && debug
	if !compile || c.source == "" || c.object == "" || c.object == "-" || c.depfile == "" ||
		path.Ext(c.object) != ".o" {
		return c, false
	}
	// A dependency file that leaves out what was read says nothing.
	return c, c.allHeaders || !c.systemFolder
}

// harmless says whether an option that stands alone makes the compiler neither read nor write a further file.
func harmless(a string) bool {
	hasPrefix := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(a, p) })
	}
	switch {
	case hasPrefix("-Wp,"):
		return hasPrefix("-Wp,-MT,", "-Wp,-D", "-Wp,-U") && strings.Count(a, ",") <= 2
	case hasPrefix("-Wa,"):
		return hasPrefix("-Wa,-m", "-Wa,--noexecstack", "-Wa,--fatal-warnings", "-Wa,-gdwarf", "-Wa,--gdwarf") &&
			strings.Count(a, ",") == 1
	case hasPrefix("-Wl,"):
		return false
	case hasPrefix("-fmacro-prefix-map=", "-ffile-prefix-map=", "-fdebug-prefix-map="):
		return true
	case hasPrefix("-fplugin", "-fprofile", "-fauto-profile", "-fbranch-probabilities", "-ftest-coverage", "-fdump",
		"-fstack-usage", "-fcallgraph-info", "-fsave", "-fopt-info", "-fmodule", "-fpch", "-frepo", "-ftime",
		"-frandomize-layout-seed-file", "-fdiagnostics-add-output", "-fdiagnostics-set-output", "-fproc-stat",
		"-fcompare-debug", "-fembed", "-fintegrated-cc1", "-fno-integrated-cc1", "-fcrash", "-fuse-ld", "-fbuild"):
		return false
	case hasPrefix("-f", "-m"):
		return !strings.Contains(a, "/") && a != "-mllvm" && !strings.HasPrefix(a, "-march=native") &&
			!strings.HasPrefix(a, "-mtune=native") && !strings.HasPrefix(a, "-mcpu=native")
	case hasPrefix("-gsplit"):
		return false
	}
	return hasPrefix("-D", "-U", "-W", "-O", "-g", "-std=", "--param=", "--target=") ||
		slices.Contains([]string{"-pipe", "-pg", "-w", "-ansi", "-pedantic", "-Qunused-arguments", "-no-integrated-as"},
			a)
}

// parseDepfile lists what a dependency file says an object was made from, each once and in order. It takes what
// compilers write for files whose names need no quoting.
func parseDepfile(data []byte) ([]string, bool) {
	s := string(data)
	colon := strings.Index(s, ": ")
	if colon < 0 || strings.ContainsAny(s[:colon], " \\\n$#") || strings.ContainsAny(s, "$#\t\r\x00") {
		return nil, false
	}
	rest, tail, more := strings.Cut(strings.ReplaceAll(s[colon+1:], "\\\n", " "), "\n")
	if more && strings.TrimSpace(tail) != "" || strings.Contains(rest, "\\") || strings.Contains(rest, ": ") {
		return nil, false
	}
	seen := map[string]bool{}
	var deps []string
	for _, d := range strings.Fields(rest) {
		if !seen[d] {
			seen[d] = true
			deps = append(deps, d)
		}
	}
	return deps, len(deps) > 0 && len(deps) <= maxDeps
}

// maxDeps bounds how many files an object is made from; one of Linux 6.12 is made from up to 2,500.
const maxDeps = 20_000

// rivals lists every file that, if it were there, the compiler could have found instead of one of deps: for each way in
// which a dependency lies below a folder of the search list, the same name below the folders before it, and for each
// header that one of the files asks for in quotes, the one beside that file. texts has what scan found in each file,
// in the order of deps.
func (c command) rivals(deps []string, texts []*text) []string {
	seen := make(map[string]bool, 4*len(deps))
	for _, d := range deps {
		seen[plainPath(d)] = true
	}
	var all []string
	add := func(prefix, rest string) {
		if p := prefix + rest; !seen[p] {
			seen[p] = true
			all = append(all, p)
		}
	}
	var computed []string // folders of files whose #include has a macro for a name
	for i, d := range deps {
		d = plainPath(d)
		dir := d[:strings.LastIndexByte(d, '/')+1]
		for _, q := range texts[i].quoted {
			add(dir, q)
		}
		if texts[i].computed && !slices.Contains(computed, dir) {
			computed = append(computed, dir)
		}
	}
	folders := make([]string, len(c.search))
	for i, f := range c.search {
		if folders[i] = strings.TrimRight(plainPath(f), "/") + "/"; folders[i] == "./" {
			folders[i] = ""
		}
	}
	for _, d := range deps {
		d = plainPath(d)
		for k, in := range folders {
			rest, ok := strings.CutPrefix(d, in)
			if !ok {
				continue
			}
			for _, before := range folders[:k] {
				add(before, rest)
			}
			for _, dir := range computed {
				add(dir, rest)
			}
		}
	}
	for _, f := range c.forced {
		add(plainPath(f), ".gch") // a precompiled header is taken in the place of its header
		add(plainPath(f), ".pch")
	}
	return all
}

// plainPath is a path as compilers write it into dependency files: without ./ in front.
func plainPath(p string) string {
	for len(p) > 2 && strings.HasPrefix(p, "./") {
		p = strings.TrimLeft(p[2:], "/")
	}
	return p
}
