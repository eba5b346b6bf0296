// Package pipelines reads the workflows for GitHub Actions, GitLab CI and Tekton that lie beside it: which commands
// their jobs run, in order. Tests check that these are make words alone, and run them here.
package pipelines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
)

// Job is a part of a pipeline that runs on one machine.
type Job struct {
	Name string
	Run  []string // commands, a line each, in order
}

// GitHub reads a workflow of GitHub Actions. Its jobs stand in the file as they need each other.
func GitHub(data []byte) ([]Job, error) {
	var w struct {
		Jobs yaml.MapSlice `yaml:"jobs"`
	}
	if err := yaml.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	return each(w.Jobs, func(node []byte) ([]string, error) {
		var j struct {
			Steps []struct {
				Run string `yaml:"run"`
			} `yaml:"steps"`
		}
		err := yaml.Unmarshal(node, &j)
		var run []string
		for _, s := range j.Steps {
			run = append(run, lines(s.Run)...)
		}
		return run, err
	})
}

// GitLab reads a .gitlab-ci.yml. Jobs are what has a script; they stand in the file as their stages follow.
func GitLab(data []byte) ([]Job, error) {
	var all yaml.MapSlice
	if err := yaml.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	var jobs yaml.MapSlice
	for _, item := range all {
		if m, ok := item.Value.(map[string]any); ok && m["script"] != nil {
			jobs = append(jobs, item)
		}
	}
	return each(jobs, func(node []byte) ([]string, error) {
		var j struct {
			Before []string `yaml:"before_script"`
			Script []string `yaml:"script"`
		}
		err := yaml.Unmarshal(node, &j)
		return append(j.Before, j.Script...), err
	})
}

// Tekton reads Tasks. Each one's steps are a job; the interpreter's line and set do nothing here.
func Tekton(data []byte) ([]Job, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var jobs []Job
	for {
		var o struct {
			Kind     string `yaml:"kind"`
			Metadata struct {
				Name string `yaml:"name"`
			} `yaml:"metadata"`
			Spec struct {
				Steps []struct {
					Script string `yaml:"script"`
				} `yaml:"steps"`
			} `yaml:"spec"`
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return jobs, nil
		} else if err != nil {
			return nil, err
		}
		if o.Kind != "Task" {
			continue
		}
		j := Job{Name: o.Metadata.Name}
		for _, s := range o.Spec.Steps {
			for _, l := range lines(s.Script) {
				if !strings.HasPrefix(l, "#!") && l != "set -eu" {
					j.Run = append(j.Run, l)
				}
			}
		}
		jobs = append(jobs, j)
	}
}

// each makes jobs of a mapping in its order.
func each(m yaml.MapSlice, run func([]byte) ([]string, error)) ([]Job, error) {
	var jobs []Job
	for _, item := range m {
		node, err := yaml.Marshal(item.Value)
		if err != nil {
			return nil, err
		}
		j := Job{Name: fmt.Sprint(item.Key)}
		if j.Run, err = run(node); err != nil {
			return nil, fmt.Errorf("job %s: %w", j.Name, err)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// lines are the lines of a script that are not empty.
func lines(script string) []string {
	var out []string
	for l := range strings.SplitSeq(script, "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}
