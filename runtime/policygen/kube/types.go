package kube

// ignored is a field that is known, and that no request to an agent depends on.
type ignored struct{}

// UnmarshalYAML takes any value.
func (*ignored) UnmarshalYAML([]byte) error { return nil }

// Metadata is an object's.
type Metadata struct {
	Name         string            `yaml:"name"`
	GenerateName string            `yaml:"generateName"`
	Namespace    string            `yaml:"namespace"`
	Labels       map[string]string `yaml:"labels"`
	Annotations  map[string]string `yaml:"annotations"`

	CreationTimestamp          ignored `yaml:"creationTimestamp"`
	DeletionGracePeriodSeconds ignored `yaml:"deletionGracePeriodSeconds"`
	DeletionTimestamp          ignored `yaml:"deletionTimestamp"`
	Finalizers                 ignored `yaml:"finalizers"`
	Generation                 ignored `yaml:"generation"`
	ManagedFields              ignored `yaml:"managedFields"`
	OwnerReferences            ignored `yaml:"ownerReferences"`
	ResourceVersion            ignored `yaml:"resourceVersion"`
	SelfLink                   ignored `yaml:"selfLink"`
	UID                        ignored `yaml:"uid"`
}

// Template is a pod, or what makes pods.
type Template struct {
	APIVersion ignored  `yaml:"apiVersion"`
	Kind       ignored  `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
	Spec       PodSpec  `yaml:"spec"`
	Status     ignored  `yaml:"status"`
}

// PodSpec is a pod's. Kubernetes: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
type PodSpec struct {
	Containers                   []Container        `yaml:"containers"`
	InitContainers               []Container        `yaml:"initContainers"`
	Volumes                      []Volume           `yaml:"volumes"`
	SecurityContext              PodSecurityContext `yaml:"securityContext"`
	RuntimeClassName             string             `yaml:"runtimeClassName"`
	Hostname                     string             `yaml:"hostname"`
	SetHostnameAsFQDN            bool               `yaml:"setHostnameAsFQDN"`
	NodeName                     string             `yaml:"nodeName"`
	ServiceAccountName           string             `yaml:"serviceAccountName"`
	ServiceAccount               string             `yaml:"serviceAccount"`
	AutomountServiceAccountToken *bool              `yaml:"automountServiceAccountToken"`
	EnableServiceLinks           *bool              `yaml:"enableServiceLinks"`
	ShareProcessNamespace        bool               `yaml:"shareProcessNamespace"`
	HostNetwork                  bool               `yaml:"hostNetwork"`
	HostPID                      bool               `yaml:"hostPID"`
	HostIPC                      bool               `yaml:"hostIPC"`
	HostUsers                    *bool              `yaml:"hostUsers"`

	ActiveDeadlineSeconds         ignored `yaml:"activeDeadlineSeconds"`
	Affinity                      ignored `yaml:"affinity"`
	DNSConfig                     ignored `yaml:"dnsConfig"`
	DNSPolicy                     ignored `yaml:"dnsPolicy"`
	HostAliases                   ignored `yaml:"hostAliases"`
	ImagePullSecrets              ignored `yaml:"imagePullSecrets"`
	NodeSelector                  ignored `yaml:"nodeSelector"`
	OS                            ignored `yaml:"os"`
	Overhead                      ignored `yaml:"overhead"`
	PreemptionPolicy              ignored `yaml:"preemptionPolicy"`
	Priority                      ignored `yaml:"priority"`
	PriorityClassName             ignored `yaml:"priorityClassName"`
	ReadinessGates                ignored `yaml:"readinessGates"`
	Resources                     ignored `yaml:"resources"`
	RestartPolicy                 ignored `yaml:"restartPolicy"`
	SchedulerName                 ignored `yaml:"schedulerName"`
	SchedulingGates               ignored `yaml:"schedulingGates"`
	Subdomain                     ignored `yaml:"subdomain"`
	TerminationGracePeriodSeconds ignored `yaml:"terminationGracePeriodSeconds"`
	Tolerations                   ignored `yaml:"tolerations"`
	TopologySpreadConstraints     ignored `yaml:"topologySpreadConstraints"`
}

// PodSecurityContext is what all containers of a pod have.
type PodSecurityContext struct {
	RunAsUser          *int64          `yaml:"runAsUser"`
	RunAsGroup         *int64          `yaml:"runAsGroup"`
	FSGroup            *int64          `yaml:"fsGroup"`
	SupplementalGroups []int64         `yaml:"supplementalGroups"`
	Sysctls            []NameValue     `yaml:"sysctls"`
	SeccompProfile     *SeccompProfile `yaml:"seccompProfile"`

	AppArmorProfile          ignored `yaml:"appArmorProfile"`
	FSGroupChangePolicy      ignored `yaml:"fsGroupChangePolicy"`
	RunAsNonRoot             ignored `yaml:"runAsNonRoot"`
	SELinuxChangePolicy      ignored `yaml:"seLinuxChangePolicy"`
	SELinuxOptions           ignored `yaml:"seLinuxOptions"`
	SupplementalGroupsPolicy string  `yaml:"supplementalGroupsPolicy"`
}

// NameValue is a name with a value.
type NameValue struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// SeccompProfile says which profile.
type SeccompProfile struct {
	Type             string  `yaml:"type"`
	LocalhostProfile ignored `yaml:"localhostProfile"`
}

// Container is a container of a pod.
type Container struct {
	Name                   string          `yaml:"name"`
	Image                  string          `yaml:"image"`
	Command                []string        `yaml:"command"`
	Args                   []string        `yaml:"args"`
	WorkingDir             string          `yaml:"workingDir"`
	Env                    []EnvVar        `yaml:"env"`
	EnvFrom                []EnvFrom       `yaml:"envFrom"`
	SecurityContext        SecurityContext `yaml:"securityContext"`
	VolumeMounts           []VolumeMount   `yaml:"volumeMounts"`
	LivenessProbe          *Handler        `yaml:"livenessProbe"`
	ReadinessProbe         *Handler        `yaml:"readinessProbe"`
	StartupProbe           *Handler        `yaml:"startupProbe"`
	Lifecycle              Lifecycle       `yaml:"lifecycle"`
	Stdin                  bool            `yaml:"stdin"`
	TTY                    bool            `yaml:"tty"`
	TerminationMessagePath string          `yaml:"terminationMessagePath"`

	ImagePullPolicy          ignored `yaml:"imagePullPolicy"`
	Ports                    ignored `yaml:"ports"`
	ResizePolicy             ignored `yaml:"resizePolicy"`
	Resources                ignored `yaml:"resources"`
	RestartPolicy            ignored `yaml:"restartPolicy"`
	RestartPolicyRules       ignored `yaml:"restartPolicyRules"`
	StdinOnce                ignored `yaml:"stdinOnce"`
	TerminationMessagePolicy ignored `yaml:"terminationMessagePolicy"`
}

// SecurityContext is what a container may.
type SecurityContext struct {
	RunAsUser                *int64          `yaml:"runAsUser"`
	RunAsGroup               *int64          `yaml:"runAsGroup"`
	Privileged               bool            `yaml:"privileged"`
	AllowPrivilegeEscalation *bool           `yaml:"allowPrivilegeEscalation"`
	ReadOnlyRootFilesystem   bool            `yaml:"readOnlyRootFilesystem"`
	Capabilities             Capabilities    `yaml:"capabilities"`
	SeccompProfile           *SeccompProfile `yaml:"seccompProfile"`

	AppArmorProfile ignored `yaml:"appArmorProfile"`
	ProcMount       string  `yaml:"procMount"`
	RunAsNonRoot    ignored `yaml:"runAsNonRoot"`
	SELinuxOptions  ignored `yaml:"seLinuxOptions"`
}

// Capabilities are added to those that every container has, and dropped from them, without CAP_ before their names.
type Capabilities struct {
	Add  []string `yaml:"add"`
	Drop []string `yaml:"drop"`
}

// EnvVar is a variable.
type EnvVar struct {
	Name      string     `yaml:"name"`
	Value     string     `yaml:"value"`
	ValueFrom *ValueFrom `yaml:"valueFrom"`
}

// ValueFrom says where a variable's value comes from.
type ValueFrom struct {
	ConfigMapKeyRef  *KeyRef   `yaml:"configMapKeyRef"`
	SecretKeyRef     *KeyRef   `yaml:"secretKeyRef"`
	FieldRef         *FieldRef `yaml:"fieldRef"`
	ResourceFieldRef *ignored  `yaml:"resourceFieldRef"`
}

// KeyRef is a key of a ConfigMap or Secret.
type KeyRef struct {
	Name     string `yaml:"name"`
	Key      string `yaml:"key"`
	Optional bool   `yaml:"optional"`
}

// FieldRef is a field of the pod.
type FieldRef struct {
	APIVersion ignored `yaml:"apiVersion"`
	FieldPath  string  `yaml:"fieldPath"`
}

// EnvFrom makes variables of all keys of a ConfigMap or Secret.
type EnvFrom struct {
	Prefix       string  `yaml:"prefix"`
	ConfigMapRef *ObjRef `yaml:"configMapRef"`
	SecretRef    *ObjRef `yaml:"secretRef"`
}

// ObjRef names a ConfigMap or Secret.
type ObjRef struct {
	Name     string `yaml:"name"`
	Optional bool   `yaml:"optional"`
}

// Handler is what a probe or a hook does.
type Handler struct {
	Exec *Exec `yaml:"exec"`

	FailureThreshold              ignored `yaml:"failureThreshold"`
	GRPC                          ignored `yaml:"grpc"`
	HTTPGet                       ignored `yaml:"httpGet"`
	InitialDelaySeconds           ignored `yaml:"initialDelaySeconds"`
	PeriodSeconds                 ignored `yaml:"periodSeconds"`
	Sleep                         ignored `yaml:"sleep"`
	SuccessThreshold              ignored `yaml:"successThreshold"`
	TCPSocket                     ignored `yaml:"tcpSocket"`
	TerminationGracePeriodSeconds ignored `yaml:"terminationGracePeriodSeconds"`
	TimeoutSeconds                ignored `yaml:"timeoutSeconds"`
}

// Exec is a command.
type Exec struct {
	Command []string `yaml:"command"`
}

// Lifecycle are a container's hooks.
type Lifecycle struct {
	PostStart  *Handler `yaml:"postStart"`
	PreStop    *Handler `yaml:"preStop"`
	StopSignal ignored  `yaml:"stopSignal"`
}

// VolumeMount is where a container has a volume.
type VolumeMount struct {
	Name              string `yaml:"name"`
	MountPath         string `yaml:"mountPath"`
	ReadOnly          bool   `yaml:"readOnly"`
	RecursiveReadOnly string `yaml:"recursiveReadOnly"`
	SubPath           string `yaml:"subPath"`
	SubPathExpr       string `yaml:"subPathExpr"`
	MountPropagation  string `yaml:"mountPropagation"`
}

// Volume is a volume of a pod.
type Volume struct {
	Name                  string     `yaml:"name"`
	ConfigMap             *ignored   `yaml:"configMap"`
	Secret                *ignored   `yaml:"secret"`
	DownwardAPI           *ignored   `yaml:"downwardAPI"`
	Projected             *ignored   `yaml:"projected"`
	EmptyDir              *EmptyDir  `yaml:"emptyDir"`
	HostPath              *HostPath  `yaml:"hostPath"`
	PersistentVolumeClaim *ClaimFrom `yaml:"persistentVolumeClaim"`
	Ephemeral             *ignored   `yaml:"ephemeral"`
	CSI                   *ClaimFrom `yaml:"csi"`
	NFS                   *ClaimFrom `yaml:"nfs"`
}

// EmptyDir is a folder that goes with the pod.
type EmptyDir struct {
	Medium    string  `yaml:"medium"`
	SizeLimit ignored `yaml:"sizeLimit"`
}

// HostPath is a file or folder of the node.
type HostPath struct {
	Path string  `yaml:"path"`
	Type ignored `yaml:"type"`
}

// ClaimFrom is storage from elsewhere.
type ClaimFrom struct {
	ReadOnly bool `yaml:"readOnly"`

	ClaimName            ignored `yaml:"claimName"`
	Driver               ignored `yaml:"driver"`
	FSType               ignored `yaml:"fsType"`
	NodePublishSecretRef ignored `yaml:"nodePublishSecretRef"`
	Path                 ignored `yaml:"path"`
	Server               ignored `yaml:"server"`
	VolumeAttributes     ignored `yaml:"volumeAttributes"`
}

// workload is what makes pods. Kinds have some of these fields each.
type workload struct {
	APIVersion ignored      `yaml:"apiVersion"`
	Kind       ignored      `yaml:"kind"`
	Metadata   Metadata     `yaml:"metadata"`
	Spec       workloadSpec `yaml:"spec"`
	Status     ignored      `yaml:"status"`
}

type workloadSpec struct {
	Template             Template      `yaml:"template"`
	JobTemplate          *workload     `yaml:"jobTemplate"`
	CompletionMode       string        `yaml:"completionMode"`
	VolumeClaimTemplates []volumeClaim `yaml:"volumeClaimTemplates"`

	ActiveDeadlineSeconds                ignored `yaml:"activeDeadlineSeconds"`
	BackoffLimit                         ignored `yaml:"backoffLimit"`
	BackoffLimitPerIndex                 ignored `yaml:"backoffLimitPerIndex"`
	Completions                          ignored `yaml:"completions"`
	ConcurrencyPolicy                    ignored `yaml:"concurrencyPolicy"`
	FailedJobsHistoryLimit               ignored `yaml:"failedJobsHistoryLimit"`
	ManagedBy                            ignored `yaml:"managedBy"`
	ManualSelector                       ignored `yaml:"manualSelector"`
	MaxFailedIndexes                     ignored `yaml:"maxFailedIndexes"`
	MinReadySeconds                      ignored `yaml:"minReadySeconds"`
	Ordinals                             ignored `yaml:"ordinals"`
	Parallelism                          ignored `yaml:"parallelism"`
	Paused                               ignored `yaml:"paused"`
	PersistentVolumeClaimRetentionPolicy ignored `yaml:"persistentVolumeClaimRetentionPolicy"`
	PodFailurePolicy                     ignored `yaml:"podFailurePolicy"`
	PodManagementPolicy                  ignored `yaml:"podManagementPolicy"`
	PodReplacementPolicy                 ignored `yaml:"podReplacementPolicy"`
	ProgressDeadlineSeconds              ignored `yaml:"progressDeadlineSeconds"`
	Replicas                             ignored `yaml:"replicas"`
	RevisionHistoryLimit                 ignored `yaml:"revisionHistoryLimit"`
	Schedule                             ignored `yaml:"schedule"`
	Selector                             ignored `yaml:"selector"`
	ServiceName                          ignored `yaml:"serviceName"`
	StartingDeadlineSeconds              ignored `yaml:"startingDeadlineSeconds"`
	Strategy                             ignored `yaml:"strategy"`
	SuccessPolicy                        ignored `yaml:"successPolicy"`
	SuccessfulJobsHistoryLimit           ignored `yaml:"successfulJobsHistoryLimit"`
	Suspend                              ignored `yaml:"suspend"`
	TTLSecondsAfterFinished              ignored `yaml:"ttlSecondsAfterFinished"`
	TimeZone                             ignored `yaml:"timeZone"`
	UpdateStrategy                       ignored `yaml:"updateStrategy"`
}

type volumeClaim struct {
	APIVersion ignored  `yaml:"apiVersion"`
	Kind       ignored  `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
	Spec       ignored  `yaml:"spec"`
	Status     ignored  `yaml:"status"`
}

// config is a ConfigMap or a Secret.
type config struct {
	APIVersion ignored           `yaml:"apiVersion"`
	Kind       ignored           `yaml:"kind"`
	Metadata   Metadata          `yaml:"metadata"`
	Data       map[string]string `yaml:"data"`
	BinaryData ignored           `yaml:"binaryData"`
	StringData map[string]string `yaml:"stringData"`
	Immutable  ignored           `yaml:"immutable"`
	Type       ignored           `yaml:"type"`
}
