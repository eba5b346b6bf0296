package sandboxapi

import (
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	containerd "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katabuild/katabuild/internal/sandboxapi/sandboxpb"
)

// Every message is what containerd and CRI call by the same name: each of its fields has the number and the kind of
// theirs. They may have more.
func TestTheMessagesAreThoseOfContainerdAndCRI(t *testing.T) {
	theirs := map[protoreflect.Name]protoreflect.MessageDescriptor{}
	add := func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			theirs[list.Get(i).Name()] = list.Get(i)
		}
	}
	for _, f := range []protoreflect.FileDescriptor{cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto,
		bootstrap.File_runtime_bootstrap_v1_bootstrap_proto} {
		add(f.Messages())
	}
	service := containerd.File_runtime_sandbox_v1_sandbox_proto
	add(service.Messages())
	for i := range service.Imports().Len() {
		add(service.Imports().Get(i).Messages())
	}
	ours := sandboxpb.File_katabuild_sandboxapi_sandbox_proto.Messages()
	for i := range ours.Len() {
		m := ours.Get(i)
		same := theirs[m.Name()]
		if same == nil {
			t.Errorf("nobody else has a message %s", m.Name())
			continue
		}
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			g := same.Fields().ByName(f.Name())
			if g == nil || g.Number() != f.Number() || g.Kind() != f.Kind() || g.Cardinality() != f.Cardinality() ||
				g.IsMap() != f.IsMap() {
				t.Errorf("%s.%s is field %d of kind %v, theirs is %v", m.Name(), f.Name(), f.Number(), f.Kind(), g)
			}
			if f.Kind() == protoreflect.EnumKind {
				for k := range f.Enum().Values().Len() {
					v := f.Enum().Values().Get(k)
					if w := g.Enum().Values().ByName(v.Name()); w == nil || w.Number() != v.Number() {
						t.Errorf("%s is %d, theirs is %v", v.Name(), v.Number(), w)
					}
				}
			}
		}
	}
}
