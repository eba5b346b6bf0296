package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/config"
)

func (a *app) configCmd() *cobra.Command {
	var asJSON, all, template, lenient bool
	var kata, hypervisor string
	var annotations []string
	c := &cobra.Command{
		Use: "config", Args: cobra.NoArgs, Short: "show the values in force, and where each was set",
		Long: `config reads the configuration and its drop-ins, as the runtime does for a pod, and shows every value
that is set, with the file and line, or the annotation, that set it. --all shows defaults too.

Keys of Kata's that have no effect are warnings, with the reason. Keys that nobody knows, and wrong values, are
errors.`,
		Example: `  kata-runtime config
  kata-runtime config --config ./configuration.toml --all
  kata-runtime config --annotation io.katacontainers.config.hypervisor.default_memory=512
  kata-runtime config --template > configuration.toml
  kata-runtime config --template --hypervisor clh > configuration.toml
  kata-runtime config --for-kata /usr/share/katabuild/guests/default`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&all, "all", false, "also what nobody has set")
	c.Flags().BoolVar(&template, "template", false,
		"print a configuration that explains every key and sets none, and end")
	c.Flags().StringVar(&hypervisor, "hypervisor", config.HypervisorQEMU, "the `NAME` of the hypervisor that "+
		"--template is for: "+strings.Join(config.Hypervisors(), ", "))
	c.Flags().StringVar(&kata, "for-kata", "", "print what Kata Containers' own configuration says for the guest in "+
		"a `FOLDER`, and end")
	c.Flags().BoolVar(&lenient, "lenient", false, "warn of keys that nobody knows, instead of refusing them")
	c.Flags().StringArrayVar(&annotations, "annotation", nil, "`NAME=VALUE` of a pod, as if it were there (repeat)")
	others := []string{"all", "json", "lenient", "annotation"}
	usage.Rules(c,
		usage.Rule{Flag: "template", Excludes: append(others, "for-kata"), Why: "which reads no configuration"},
		usage.Rule{Flag: "hypervisor", Needs: "template", Why: "whose form it chooses"},
		usage.Rule{Flag: "for-kata", Excludes: others, Why: "which reads no configuration"})
	c.RunE = func(*cobra.Command, []string) error {
		if template {
			if !slices.Contains(config.Hypervisors(), hypervisor) {
				return &usage.Error{Err: fmt.Errorf("--hypervisor %q: want one of %s", hypervisor,
					strings.Join(config.Hypervisors(), ", "))}
			}
			_, err := a.out.Write(config.Template(hypervisor))
			return err
		}
		if kata != "" {
			dir, err := filepath.Abs(kata)
			if err != nil {
				return err
			}
			m, _, err := manifest.Read(dir, "")
			if err != nil {
				return err
			}
			text, err := forKata(dir, m)
			if err == nil {
				_, err = io.WriteString(a.out, text)
			}
			return err
		}
		o := config.Options{Path: a.configFile, Environment: a.getenv("KATA_CONF_FILE"), Suffix: a.suffix,
			Lenient:     lenient,
			Annotations: map[string]string{}}
		for _, s := range annotations {
			name, value, ok := strings.Cut(s, "=")
			if !ok || !strings.HasPrefix(name, config.AnnotationPrefix) {
				return &usage.Error{Err: fmt.Errorf("--annotation %q: want %s...=VALUE", s, config.AnnotationPrefix)}
			}
			if _, twice := o.Annotations[name]; twice {
				return &usage.Error{Err: fmt.Errorf("--annotation %s stands twice", name)}
			}
			o.Annotations[name] = value
		}
		l, err := config.Load(o)
		if err != nil {
			return err
		}
		settings, err := l.Settings()
		if err != nil {
			return err
		}
		if !all {
			var set []config.Setting
			for _, s := range settings {
				if !s.Default() {
					set = append(set, s)
				}
			}
			settings = set
		}
		if asJSON {
			return a.printJSON(l, settings)
		}
		return a.printTable(l, settings)
	}
	return c
}

func (a *app) printTable(l *config.Loaded, settings []config.Setting) error {
	for _, w := range l.Warnings {
		fmt.Fprintf(a.err, "warning: %s\n", w)
	}
	fmt.Fprintf(a.out, "# read: %s\n", strings.Join(l.Files, ", "))
	if len(settings) == 0 {
		_, err := fmt.Fprintln(a.out, "# nothing is set; --all shows the defaults")
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tVALUE\tSET BY")
	for _, s := range settings {
		from := make([]string, len(s.From))
		for i, p := range s.From {
			from[i] = p.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Key, s.Value, strings.Join(from, " and "))
	}
	return w.Flush()
}

// The JSON form. docs/formats/configuration.md.
type (
	jsonConfig struct {
		Files    []string      `json:"files"`
		Settings []jsonSetting `json:"settings"`
		Warnings []jsonWarning `json:"warnings"`
	}
	jsonSetting struct {
		Key   string          `json:"key"`
		Value json.RawMessage `json:"value"`
		From  []jsonPlace     `json:"from"` // empty: the default
	}
	jsonPlace struct {
		File       string `json:"file,omitempty"`
		Line       int    `json:"line,omitempty"`
		Column     int    `json:"column,omitempty"`
		Annotation string `json:"annotation,omitempty"`
	}
	jsonWarning struct {
		jsonPlace
		Message string `json:"message"`
	}
)

func (a *app) printJSON(l *config.Loaded, settings []config.Setting) error {
	out := jsonConfig{Files: l.Files, Settings: []jsonSetting{}, Warnings: []jsonWarning{}}
	for _, s := range settings {
		j := jsonSetting{Key: s.Key, Value: s.JSON, From: []jsonPlace{}}
		for _, p := range s.From {
			if p != (config.Place{}) {
				j.From = append(j.From, jsonPlace(p))
			}
		}
		out.Settings = append(out.Settings, j)
	}
	for _, w := range l.Warnings {
		out.Warnings = append(out.Warnings, jsonWarning{jsonPlace(w.Place), w.Message})
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("configuration as JSON: %w", err)
	}
	_, err = a.out.Write(append(data, '\n'))
	return err
}
