package policygen

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/policygen/kube"
)

// value is a text of which parts are known when the pod runs only. The zero value is the empty text.
type value struct {
	text string // what is known, as it is
	expr string // an expression for all of it, or empty where all of it is known
}

func known(s string) value { return value{text: s} }

func matching(expr string) value { return value{expr: "(?:" + expr + ")"} }

// pattern is an expression for the value.
func (v value) pattern() string {
	if v.expr != "" {
		return v.expr
	}
	return regexp.QuoteMeta(v.text)
}

func (v value) isKnown() bool { return v.expr == "" }

// join puts values behind each other.
func join(parts ...value) value {
	var text, expr strings.Builder
	all := true
	for _, p := range parts {
		text.WriteString(p.text)
		expr.WriteString(p.pattern())
		all = all && p.isKnown()
	}
	if all {
		return known(text.String())
	}
	return value{expr: expr.String()}
}

// What is known of values before a pod runs.
const (
	anyIP   = `[0-9a-fA-F.:]+`
	anyUUID = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	anyDNS  = `[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?`
)

// services are the variables that tell of services. Kubernetes:
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
func services(prefix string) []string {
	return []string{
		prefix + `_SERVICE_HOST=` + anyIP,
		prefix + `_SERVICE_PORT(?:_[A-Z0-9_]+)?=[0-9]+`,
		prefix + `_PORT=(?:tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+`,
		prefix + `_PORT_[0-9]+_(?:TCP|UDP|SCTP)=(?:tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+`,
		prefix + `_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp)`,
		prefix + `_PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT=[0-9]+`,
		prefix + `_PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR=` + anyIP,
	}
}

// apiServer are variables that every container has, by whose names commands may ask for them.
var apiServer = map[string]value{
	"KUBERNETES_SERVICE_HOST":       matching(anyIP),
	"KUBERNETES_SERVICE_PORT":       matching(`[0-9]+`),
	"KUBERNETES_SERVICE_PORT_HTTPS": matching(`[0-9]+`),
}

// expand replaces $(NAME) by a variable's value, and $$ by $. Names that are not known stay as they are. Kubernetes:
// https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#environment-variables
func expand(s string, vars map[string]value) value {
	var out []value
	for s != "" {
		at := strings.IndexByte(s, '$')
		if at < 0 || at == len(s)-1 {
			break
		}
		out = append(out, known(s[:at]))
		s = s[at+1:]
		end := strings.IndexByte(s, ')')
		switch {
		case s[0] == '$':
			out, s = append(out, known("$")), s[1:]
		case s[0] == '(' && end > 0:
			v, ok := vars[s[1:end]]
			if !ok {
				v = known("$" + s[:end+1])
			}
			out, s = append(out, v), s[end+1:]
		case s[0] == '(':
			out, s = append(out, known("$(")), s[1:]
		default:
			out, s = append(out, known("$"+s[:1])), s[1:]
		}
	}
	return join(append(out, known(s))...)
}

// variables are those that a container's object asks for, by name.
func (g *generator) variables(p *podFacts, c kube.Container) (map[string]value, error) {
	all := map[string]value{}
	for _, from := range c.EnvFrom {
		for _, one := range []struct {
			what string
			ref  *kube.ObjRef
			have map[string]map[string]string
		}{{"ConfigMap", from.ConfigMapRef, g.set.ConfigMaps}, {"Secret", from.SecretRef, g.set.Secrets}} {
			if one.ref == nil {
				continue
			}
			data, ok := one.have[one.ref.Name]
			if !ok && !one.ref.Optional {
				return nil, missing(one.what, one.ref.Name)
			}
			for k, v := range data {
				all[from.Prefix+k] = known(v)
			}
		}
	}
	earlier := maps.Clone(apiServer)
	for _, e := range c.Env {
		v := expand(e.Value, earlier)
		if e.ValueFrom != nil {
			var there bool
			var err error
			if v, there, err = g.valueFrom(p, e.ValueFrom); err != nil {
				return nil, fmt.Errorf("variable %s: %w", e.Name, err)
			}
			if !there {
				continue
			}
		}
		all[e.Name], earlier[e.Name] = v, v
	}
	return all, nil
}

// missing says that an object has to be given too.
func missing(what, name string) error {
	return fmt.Errorf("%s %s is not among what was read: it has to stand in the file, or in one of --config-file", what,
		name)
}

func (g *generator) valueFrom(p *podFacts, f *kube.ValueFrom) (v value, there bool, err error) {
	of := func(what string, r *kube.KeyRef, have map[string]map[string]string) (value, bool, error) {
		data, ok := have[r.Name]
		if !ok {
			if r.Optional {
				return value{}, false, nil
			}
			return value{}, false, missing(what, r.Name)
		}
		text, ok := data[r.Key]
		if !ok && !r.Optional {
			return value{}, false, fmt.Errorf("%s %s has no key %s", what, r.Name, r.Key)
		}
		return known(text), ok, nil
	}
	switch {
	case f.ConfigMapKeyRef != nil:
		return of("ConfigMap", f.ConfigMapKeyRef, g.set.ConfigMaps)
	case f.SecretKeyRef != nil:
		return of("Secret", f.SecretKeyRef, g.set.Secrets)
	case f.FieldRef != nil:
		v, err := p.field(f.FieldRef.FieldPath)
		return v, true, err
	case f.ResourceFieldRef != nil:
		return matching(`[0-9]+`), true, nil
	}
	return value{}, false, fmt.Errorf("valueFrom says nothing that is known here")
}

// field is a field of the pod, by its path.
func (p *podFacts) field(name string) (value, error) {
	switch name {
	case "metadata.name":
		return p.name, nil
	case "metadata.namespace":
		return p.namespace, nil
	case "metadata.uid":
		return matching(anyUUID), nil
	case "spec.nodeName":
		if p.spec.NodeName != "" {
			return known(p.spec.NodeName), nil
		}
		return matching(anyDNS), nil
	case "spec.serviceAccountName":
		for _, n := range []string{p.spec.ServiceAccountName, p.spec.ServiceAccount} {
			if n != "" {
				return known(n), nil
			}
		}
		return known("default"), nil
	case "status.podIP", "status.hostIP":
		return matching(anyIP), nil
	case "status.podIPs", "status.hostIPs":
		return matching(anyIP + `(?:,` + anyIP + `)*`), nil
	}
	for _, of := range []struct {
		name string
		have map[string]string
	}{{"metadata.labels", p.meta.Labels}, {"metadata.annotations", p.meta.Annotations}} {
		key, ok := strings.CutPrefix(name, of.name+"['")
		if key, end := strings.CutSuffix(key, "']"); ok && end {
			if v, there := of.have[key]; there {
				return known(v), nil
			}
			return matching(`.*`), nil // what makes pods adds labels of its own
		}
	}
	return value{}, fmt.Errorf("the pod has no field %s that a variable may have", name)
}

// environment are expressions for each of a container's variables.
func (g *generator) environment(p *podFacts, image []string, vars map[string]value, tty bool) []string {
	own := map[string]value{}
	for _, e := range image {
		name, v, _ := strings.Cut(e, "=")
		own[name] = known(v)
	}
	maps.Copy(own, vars)
	if _, there := own["HOSTNAME"]; !there {
		own["HOSTNAME"] = p.hostname
	}
	if _, there := own["TERM"]; tty && !there {
		own["TERM"] = known("xterm")
	}
	if p.indexed {
		own["JOB_COMPLETION_INDEX"] = matching(`[0-9]+`)
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(own)) {
		out = append(out, regexp.QuoteMeta(name+"=")+own[name].pattern())
	}
	prefix := `[A-Z][A-Z0-9_]*`
	if l := p.spec.EnableServiceLinks; l != nil && !*l {
		prefix = "KUBERNETES"
	}
	return slices.Concat(out, services(prefix), g.settings.Env)
}
