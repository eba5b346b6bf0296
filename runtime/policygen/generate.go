// Package policygen makes policies for pods: what a pod's object, the images of its containers and a cluster's settings
// say goes in, and the calls that a host may make of the pod's agent come out.
//
// It knows what containerd, kubelet and this runtime make of such an object. What it does not know of a pod is an
// error, so that a policy is never about less than the pod. It reads no files and no registries: those are its parts
// kube and images; rules writes the result.
package policygen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/policygen/images"
	"github.com/katabuild/katabuild/runtime/policygen/kube"
	"github.com/katabuild/katabuild/runtime/policygen/rules"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
)

// PolicyAnnotation is what a pod has its policy in, in base64.
const PolicyAnnotation = config.AnnotationPrefix + "agent.policy"

// Generator makes policies.
type Generator struct {
	Settings *Settings
	Images   images.Source
	Set      *kube.Set // what ConfigMaps and Secrets are found in
}

// generator makes one policy.
type generator struct {
	settings *Settings
	images   images.Source
	set      *kube.Set
	policy   rules.Policy
}

// podFacts are what is known of a pod before it runs.
type podFacts struct {
	pod       *kube.Pod
	spec      *kube.PodSpec
	meta      *kube.Metadata
	name      value
	namespace value
	hostname  value
	indexed   bool
	volumes   map[string]volume
}

// Policy makes the policy of a pod.
func (g *Generator) Policy(ctx context.Context, p *kube.Pod) (*rules.Policy, error) {
	one := &generator{settings: g.Settings, images: g.Images, set: g.Set}
	if err := one.pod(ctx, p); err != nil {
		name := p.Name
		if name == "" {
			name = p.Template.Metadata.GenerateName
		}
		return nil, fmt.Errorf("%s: %s %s: %w", p.Place(), p.Kind, name, err)
	}
	return &one.policy, nil
}

// podName is what pods that an object makes are called. Kubernetes:
// https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values
func podName(p *kube.Pod) value {
	const generated, longest = `[a-z0-9]{5}`, 58
	base := func(text string, middle string) value {
		if len(text) > longest-12 { // a name becomes no longer than 63 letters
			return join(known(text[:longest-12]), matching(`[a-z0-9.-]*`))
		}
		return join(known(text+"-"), matching(middle))
	}
	switch p.Kind {
	case "Pod":
		if n := p.Template.Metadata.Name; n != "" {
			return known(n)
		}
		return join(known(p.Template.Metadata.GenerateName), matching(generated))
	case "Deployment":
		return base(p.Name, `[a-z0-9]{1,10}-`+generated)
	case "StatefulSet":
		return base(p.Name, `[0-9]+`)
	case "CronJob":
		return base(p.Name, `[0-9]+-`+generated)
	case "Job":
		if p.Indexed {
			return base(p.Name, `[0-9]+-`+generated)
		}
	}
	return base(p.Name, generated)
}

func (g *generator) pod(ctx context.Context, pod *kube.Pod) error {
	t := &pod.Template
	p := &podFacts{pod: pod, spec: &t.Spec, meta: &t.Metadata, name: podName(pod), indexed: pod.Indexed}
	switch ns := cmp.Or(t.Metadata.Namespace, g.settings.Namespace); ns {
	case "":
		p.namespace = matching(anyDNS)
	default:
		p.namespace = known(ns)
	}
	switch {
	case t.Spec.HostPID || t.Spec.HostIPC:
		return errors.New("hostPID and hostIPC have no meaning in a guest")
	case t.Spec.HostNetwork || t.Spec.SetHostnameAsFQDN:
		p.hostname = matching(anyDNS)
	case t.Spec.Hostname != "":
		p.hostname = known(t.Spec.Hostname)
	default:
		p.hostname = p.name
	}
	var err error
	if p.volumes, err = g.volumesOf(pod); err != nil {
		return err
	}
	g.policy.Comment = []string{fmt.Sprintf("What the host may do with pods of %s %s.", pod.Kind,
		cmp.Or(pod.Name, t.Metadata.GenerateName+"..."))}
	g.sandbox(p)
	if err := g.pause(ctx, p); err != nil {
		return fmt.Errorf("first container: %w", err)
	}
	stdin := false
	for _, c := range slices.Concat(t.Spec.InitContainers, t.Spec.Containers) {
		if err := g.container(ctx, p, c); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
		stdin = stdin || c.Stdin
	}
	g.life(stdin || g.settings.ExecInput)
	return nil
}

func (g *generator) allow(r rules.Rule) { g.policy.Rules = append(g.policy.Rules, r) }

// sandbox allows what is asked before there are containers.
func (g *generator) sandbox(p *podFacts) {
	shm := func(o ...rules.Value) rules.Value {
		o = append([]rules.Value{rules.Text("noexec"), rules.Text("nosuid"), rules.Text("nodev"),
			rules.Text("mode=1777")}, o...)
		return rules.Object(rules.Field{Name: "driver", Value: rules.Text("ephemeral")},
			rules.Field{Name: "source", Value: rules.Text("shm")},
			rules.Field{Name: "fstype", Value: rules.Text("tmpfs")},
			rules.Field{Name: "mount_point", Value: rules.Text(translate.Shm)},
			rules.Field{Name: "shared", Value: rules.Bool(true)}, rules.Field{Name: "options", Value: rules.List(o...)})
	}
	folder := rules.Object(rules.Field{Name: "driver", Value: rules.Text("virtio-fs")},
		rules.Field{Name: "source", Value: rules.Text(share.Tag)},
		rules.Field{Name: "fstype", Value: rules.Text("virtiofs")},
		rules.Field{Name: "mount_point", Value: rules.Text(share.GuestDir + "/")},
		rules.Field{Name: "shared", Value: rules.Bool(true)})
	hostname := p.hostname.pattern()
	if p.spec.HostNetwork {
		hostname = `.*`
	}
	g.allow(rules.Rule{Comment: "The pod, before it has containers.", Call: "CreateSandbox",
		Conditions: []rules.Condition{
			rules.Matches("sandbox_id", anyID), rules.Matches("hostname", hostname), rules.Any("dns"),
			rules.Among("storages", folder, shm(), shm(rules.Like(`size=[0-9]+`)))}})
}

// Parts of addresses that are not this machine's own.
const (
	notLo       = `|l|[^l].*|l[^o].*|lo.+`
	notLoopback = `|(?:[0-9]|[1-9][0-9]|1[013-9][0-9]|12[0-689]|2[0-9][0-9])\.[0-9.]+(?:/[0-9]+)?` +
		`|[2-9a-fA-F][0-9a-fA-F:]+(?:/[0-9]+)?`
)

// life allows what every pod's life has.
func (g *generator) life(stdin bool) {
	for i, call := range []string{"StartContainer", "SignalProcess", "WaitProcess", "ReadStdout", "ReadStderr",
		"CloseStdin", "TtyWinResize", "StatsContainer", "PauseContainer", "ResumeContainer", "RemoveContainer",
		"GetOOMEvent", "GetGuestDetails", "GetMetrics", "OnlineCPUMem", "ListInterfaces", "ListRoutes",
		"DestroySandbox"} {
		r := rules.Rule{Call: call}
		if i == 0 {
			r.Comment = "What every pod's life has."
		}
		g.allow(r)
	}
	if stdin {
		g.allow(rules.Rule{Call: "WriteStdin"})
	}
	g.allow(rules.Rule{Call: "UpdateContainer", Conditions: append([]rules.Condition{rules.Any("container_id")},
		resources("resources.")...)})
	g.allow(rules.Rule{Comment: "The network, but for the guest's own loopback.", Call: "UpdateInterface", Open: true,
		Conditions: []rules.Condition{rules.Matches("interface.name", notLo)}})
	g.allow(rules.Rule{Call: "UpdateRoutes", Open: true, Conditions: []rules.Condition{
		rules.Matches("routes.Routes[].device", notLo), rules.Matches("routes.Routes[].source", notLoopback)}})
	g.allow(rules.Rule{Call: "AddARPNeighbors", Open: true, Conditions: []rules.Condition{
		rules.Matches("neighbors.ARPNeighbors[].device", notLo)}})
	for _, call := range g.settings.Calls {
		g.allow(rules.Rule{Comment: "By the settings.", Call: call})
	}
}

// resources are the limits of a container; of devices none.
func resources(at string) []rules.Condition {
	return []rules.Condition{rules.Any(at + "Memory"), rules.Any(at + "CPU"), rules.Any(at + "Pids"),
		rules.Any(at + "HugepageLimits")}
}

// process is what runs in a container, as far as it is known.
type process struct {
	args         []value
	user         user
	env          []string
	cwd          string
	capabilities []string
	noNew        bool
	terminal     bool
}

// conditions are those of a process at a place of a request.
func (c *process) conditions(at string) []rules.Condition {
	var args, gids, caps []rules.Value
	for _, a := range c.args {
		if a.isKnown() {
			args = append(args, rules.Text(a.text))
		} else {
			args = append(args, rules.Like(a.expr))
		}
	}
	for _, id := range c.user.groups {
		gids = append(gids, rules.Number(id))
	}
	for _, name := range c.capabilities {
		caps = append(caps, rules.Text(name))
	}
	out := []rules.Condition{
		rules.Is(at+"Args", rules.List(args...)),
		rules.EachMatches(at+"Env", alternatives(c.env)),
		rules.Is(at+"Cwd", rules.Text(c.cwd)),
		rules.Is(at+"User.UID", rules.Number(c.user.uid)), rules.Is(at+"User.GID", rules.Number(c.user.gid)),
		rules.Among(at+"User.AdditionalGids", gids...),
		rules.Is(at+"NoNewPrivileges", rules.Bool(c.noNew)), rules.Any(at + "OOMScoreAdj"),
	}
	for _, set := range []string{"Bounding", "Effective", "Permitted"} {
		out = append(out, rules.Among(at+"Capabilities."+set, caps...))
	}
	if c.terminal {
		out = append(out, rules.Any(at+"Terminal"), rules.Any(at+"ConsoleSize"))
	}
	return out
}

func alternatives(expr []string) string { return strings.Join(expr, "|") }

// extra is the annotation for what the API has no fields for: of that, limits and the answer of a seccomp profile.
const extra = `io\.katabuild\.oci-extra=\{(?:"defaultErrnoRet":[0-9]+,?)?` +
	`(?:"unified":\{(?:"(?:memory|cpu|pids|io|hugetlb)\.[a-z0-9_.]+":"[0-9a-z ]*",?)*\},?)?` +
	`(?:"cpuBurst":[0-9]+,?)?(?:"cpuIdle":[0-9]+)?\}`

// annotations are expressions for the annotations of a container, what its name and image say first.
func (g *generator) annotations(p *podFacts, own ...string) string {
	cri := `io\.kubernetes\.cri\.`
	all := append(own,
		cri+`sandbox-id=`+anyID, cri+`sandbox-name=`+p.name.pattern(), cri+`sandbox-namespace=`+p.namespace.pattern(),
		cri+`sandbox-uid=`+anyUUID, cri+`runtime-handler=[a-z0-9.-]*`, extra,
		regexp.QuoteMeta(PolicyAnnotation)+`=[A-Za-z0-9+/=]*`)
	for _, k := range slices.Sorted(maps.Keys(p.meta.Annotations)) {
		if strings.HasPrefix(k, "io.katacontainers.") && k != PolicyAnnotation { // it would hold itself
			all = append(all, regexp.QuoteMeta(k+"="+p.meta.Annotations[k]))
		}
	}
	return alternatives(append(all, g.settings.Annotations...))
}

// profile are the conditions about seccomp: which answer a call gets that the profile does not name. What it names is
// the runtime's to say.
func (g *generator) profile(asked *kube.SeccompProfile, privileged bool) ([]rules.Condition, error) {
	kind := "Unconfined"
	if g.settings.SeccompDefault {
		kind = "RuntimeDefault"
	}
	if asked != nil {
		kind = asked.Type
	}
	const at = "OCI.Linux.Seccomp"
	switch {
	case g.settings.NoSeccomp || privileged || kind == "Unconfined":
		return nil, nil
	case kind == "RuntimeDefault":
		return []rules.Condition{rules.Is(at+".DefaultAction", rules.Text("SCMP_ACT_ERRNO")),
			rules.Any(at + ".Architectures"), rules.Any(at + ".Flags"), rules.Any(at + ".Syscalls")}, nil
	case kind == "Localhost":
		return []rules.Condition{rules.Any(at)}, nil
	}
	return nil, fmt.Errorf("seccompProfile of type %s is not known", kind)
}

// common are the conditions of all containers.
func (g *generator) common(p *podFacts, b *binds, privileged bool) []rules.Condition {
	spaces := []rules.Value{}
	for _, t := range []string{"ipc", "uts", "mount"} {
		spaces = append(spaces, rules.Object(rules.Field{Name: "Type", Value: rules.Text(t)}))
	}
	root := regexp.QuoteMeta(share.GuestDir+"/") + anyID + `/rootfs|` + guestRun + anyID + `/disk`
	out := []rules.Condition{
		rules.Matches("container_id", anyID), rules.Any("exec_id"), rules.Any("stdout_port"), rules.Any("stderr_port"),
		rules.Any("OCI.Version"), rules.Matches("OCI.Root.Path", root),
		rules.Among("OCI.Mounts", b.mounts...), rules.Among("storages", append(b.storages, rootDisks())...),
		rules.Any("OCI.Linux.MaskedPaths"), rules.Any("OCI.Linux.ReadonlyPaths"),
	}
	out = append(out, resources("OCI.Linux.Resources.")...)
	if h := p.spec.HostUsers; h != nil && !*h {
		spaces = append(spaces, rules.Object(rules.Field{Name: "Type", Value: rules.Text("user")}))
		out = append(out, rules.Any("OCI.Linux.UIDMappings"), rules.Any("OCI.Linux.GIDMappings"))
	}
	if privileged {
		out = append(out, rules.Among("OCI.Linux.Resources.Devices",
			rules.Object(rules.Field{Name: "Allow", Value: rules.Bool(true)},
				rules.Field{Name: "Type", Value: rules.Text("a")},
				rules.Field{Name: "Major", Value: rules.Number(-1)},
				rules.Field{Name: "Minor", Value: rules.Number(-1)},
				rules.Field{Name: "Access", Value: rules.Text("rwm")})))
	}
	return append(out, rules.Among("OCI.Linux.Namespaces", spaces...))
}

// pauseImage is what the image of Kubernetes' own first container says, for clusters whose settings name none.
var pauseImage = images.Image{User: "65535:65535", Entrypoint: []string{"/pause"}, WorkingDir: "/",
	Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}

// pause allows the pod's first container, which waits.
func (g *generator) pause(ctx context.Context, p *podFacts) error {
	img := &pauseImage
	name := `io\.kubernetes\.cri\.(?:podsandbox\.|sandbox-)image-name=`
	if g.settings.PauseImage != "" {
		var err error
		if img, err = g.images.Image(ctx, g.settings.PauseImage); err != nil {
			return err
		}
		name += nameOf(g.settings.PauseImage, img)
	} else {
		name += `[^ ]*pause[^ ]*`
	}
	sc := p.spec.SecurityContext
	u, err := userOf(img, asked{uid: sc.RunAsUser, gid: sc.RunAsGroup, group: true})
	if err != nil {
		return err
	}
	privileged := slices.ContainsFunc(slices.Concat(p.spec.InitContainers, p.spec.Containers),
		func(c kube.Container) bool { return c.SecurityContext.Privileged })
	run := &process{user: u, cwd: cmp.Or(img.WorkingDir, "/"), capabilities: capabilities(kube.Capabilities{}, false),
		noNew: true}
	for _, a := range slices.Concat(img.Entrypoint, img.Cmd) {
		run.args = append(run.args, known(a))
	}
	for _, e := range img.Env {
		run.env = append(run.env, regexp.QuoteMeta(e))
	}
	access := "ro"
	if privileged {
		access = "rw"
	}
	b := &binds{mounts: systems(access)}
	b.file("/etc/resolv.conf", `resolv\.conf`, "rbind", "ro", "nosuid", "nodev", "noexec")
	cri := `io\.kubernetes\.cri\.`
	conditions := g.common(p, b, false)
	conditions = append(conditions, run.conditions("OCI.Process.")...)
	conditions = append(conditions, rules.Is("OCI.Root.Readonly", rules.Bool(true)),
		rules.EachMatches("OCI.Annotations", g.annotations(p, cri+`container-type=sandbox`, name,
			cri+`sandbox-(?:cpu-period|cpu-quota|cpu-shares|memory)=-?[0-9]+`,
			cri+`sandbox-log-directory=[^ ]+`)))
	if !p.spec.HostNetwork {
		conditions = append(conditions, rules.Matches("OCI.Hostname", p.hostname.pattern()),
			rules.EachMatches("OCI.Linux.Sysctl", g.sysctls(p)))
	}
	conditions = append(conditions, rules.Any("OCI.Linux.Seccomp")) // kubelet's to say, and it only waits
	g.allow(rules.Rule{Comment: "The first container, which waits.", Call: "CreateContainer", Conditions: conditions})
	return nil
}

// sysctls are an expression for those of the pod: its own, what containerd sets where it does not, and the settings'.
func (g *generator) sysctls(p *podFacts) string {
	all := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	maps.Copy(all, g.settings.Sysctls)
	for _, s := range p.spec.SecurityContext.Sysctls {
		all[s.Name] = s.Value
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, regexp.QuoteMeta(k+"="+all[k]))
	}
	return alternatives(out)
}

// nameOf is an expression for the names under which a node may know an image.
func nameOf(name string, img *images.Image) string {
	var out []string
	for _, n := range images.Names(name) {
		out = append(out, regexp.QuoteMeta(n))
		repository, _, _ := strings.Cut(n, "@")
		if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
			repository = repository[:i]
		}
		if img.Digest != "" {
			out = append(out, regexp.QuoteMeta(repository+"@"+string(img.Digest)))
		}
	}
	slices.Sort(out)
	return "(?:" + alternatives(slices.Compact(out)) + ")"
}

// container allows a container of the pod, and what probes, hooks and the settings run in it.
func (g *generator) container(ctx context.Context, p *podFacts, c kube.Container) error {
	if c.Image == "" {
		return errors.New("it has no image")
	}
	img, err := g.images.Image(ctx, c.Image)
	if err != nil {
		return err
	}
	run, err := g.processOf(p, c, img)
	if err != nil {
		return err
	}
	sc := c.SecurityContext
	if sc.ProcMount != "" && sc.ProcMount != "Default" {
		return fmt.Errorf("procMount %s is not supported", sc.ProcMount)
	}
	b, err := bindsOf(p, c, img)
	if err != nil {
		return err
	}
	profile := sc.SeccompProfile
	if profile == nil {
		profile = p.spec.SecurityContext.SeccompProfile
	}
	seccomp, err := g.profile(profile, sc.Privileged)
	if err != nil {
		return err
	}
	cri := `io\.kubernetes\.cri\.`
	conditions := g.common(p, b, sc.Privileged)
	conditions = append(conditions, run.conditions("OCI.Process.")...)
	conditions = append(conditions, seccomp...)
	conditions = append(conditions, rules.Is("OCI.Root.Readonly", rules.Bool(sc.ReadOnlyRootFilesystem)),
		rules.EachMatches("OCI.Annotations", g.annotations(p, cri+`container-type=container`,
			cri+`container-name=`+regexp.QuoteMeta(c.Name), cri+`image-name=`+nameOf(c.Image, img))))
	if p.spec.ShareProcessNamespace {
		conditions = append(conditions, rules.Is("sandbox_pidns", rules.Bool(true)))
	}
	if slices.ContainsFunc(c.VolumeMounts, func(m kube.VolumeMount) bool {
		return m.MountPropagation == "HostToContainer" || m.MountPropagation == "Bidirectional"
	}) {
		conditions = append(conditions, rules.Matches("OCI.Linux.RootfsPropagation", "rslave|rshared"))
	}
	if c.Stdin {
		conditions = append(conditions, rules.Any("stdin_port"))
	}
	g.allow(rules.Rule{Comment: "Container " + c.Name + ".", Call: "CreateContainer", Conditions: conditions})
	g.commands(c, run)
	return nil
}

// bindsOf are the file systems, files and volumes of a container.
func bindsOf(p *podFacts, c kube.Container, img *images.Image) (*binds, error) {
	access, rootAccess := "ro", "rw"
	if c.SecurityContext.Privileged {
		access = "rw"
	}
	if c.SecurityContext.ReadOnlyRootFilesystem {
		rootAccess = "ro"
	}
	b := &binds{mounts: append(systems(access), plainMount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec",
		"nodev", "relatime", access))}
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	for _, f := range []struct{ at, base, access string }{
		{"/etc/hosts", "etc-hosts", "rw"},
		{cmp.Or(c.TerminationMessagePath, "/dev/termination-log"), `[0-9a-f]+`, "rw"},
		{"/etc/hostname", "hostname", rootAccess}, {"/etc/resolv.conf", `resolv\.conf`, rootAccess},
	} {
		if !mountedAt(c, f.at) {
			b.file(f.at, f.base, "rbind", "rprivate", f.access)
		}
	}
	if token := p.spec.AutomountServiceAccountToken; (token == nil || *token) && !mountedAt(c, account) {
		b.bind(account, volume{base: `kube-api-access-[a-z0-9]{5}`, watched: true}, "rbind", "rprivate", "ro")
	}
	for _, at := range img.Volumes {
		if !mountedAt(c, at) {
			b.file(at, `[0-9a-f]{64}`, "rbind", "rprivate", "rw")
		}
	}
	return b, b.volumeMounts(p.pod, c, p.volumes)
}

// processOf is the first process of a container.
func (g *generator) processOf(p *podFacts, c kube.Container, img *images.Image) (*process, error) {
	sc, all := c.SecurityContext, p.spec.SecurityContext
	want := asked{uid: sc.RunAsUser, gid: sc.RunAsGroup, extra: all.SupplementalGroups}
	if want.uid == nil {
		want.uid = all.RunAsUser
	}
	if want.gid == nil {
		want.gid = all.RunAsGroup
	}
	if all.FSGroup != nil {
		want.extra = append(slices.Clone(want.extra), *all.FSGroup)
	}
	u, err := userOf(img, want)
	if err != nil {
		return nil, err
	}
	vars, err := g.variables(p, c)
	if err != nil {
		return nil, err
	}
	run := &process{user: u, env: g.environment(p, img.Env, vars, c.TTY),
		cwd:          cmp.Or(c.WorkingDir, img.WorkingDir, "/"),
		capabilities: capabilities(sc.Capabilities, sc.Privileged), terminal: c.TTY,
		noNew: sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation}
	known := maps.Clone(apiServer)
	maps.Copy(known, vars)
	command, args := c.Command, c.Args
	words := func(list []string, own bool) {
		for _, w := range list {
			if own {
				run.args = append(run.args, expand(w, known))
			} else {
				run.args = append(run.args, value{text: w})
			}
		}
	}
	// Kubernetes: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
	if len(command) > 0 {
		words(command, true)
	} else {
		words(img.Entrypoint, false)
	}
	switch {
	case len(args) > 0:
		words(args, true)
	case len(command) == 0:
		words(img.Cmd, false)
	}
	if len(run.args) == 0 {
		return nil, fmt.Errorf("neither it nor image %s says what to run", c.Image)
	}
	return run, nil
}

// commands allows what is run in a container beside its first process.
func (g *generator) commands(c kube.Container, run *process) {
	list := slices.Clone(g.settings.Exec)
	own := len(list)
	for _, h := range []*kube.Handler{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe, c.Lifecycle.PostStart,
		c.Lifecycle.PreStop} {
		if h != nil && h.Exec != nil && len(h.Exec.Command) > 0 {
			list = append(list, h.Exec.Command)
		}
	}
	var done []string
	for i, command := range list {
		key := digest.Of([]byte(strings.Join(command, "\x00"))).Hex()
		if slices.Contains(done, key) {
			continue
		}
		done = append(done, key)
		p := *run
		p.args, p.terminal = nil, false
		for _, w := range command {
			p.args = append(p.args, known(w))
		}
		conditions := []rules.Condition{rules.Matches("container_id", anyID), rules.Any("exec_id"),
			rules.Any("stdout_port"), rules.Any("stderr_port")}
		if g.settings.ExecInput && i < own {
			conditions = append(conditions, rules.Any("stdin_port"))
			p.terminal = true
			p.env = append(slices.Clone(p.env), "TERM=xterm")
		}
		g.allow(rules.Rule{Comment: "A command in " + c.Name + ".", Call: "ExecProcess",
			Conditions: append(conditions, p.conditions("process.")...)})
	}
}
