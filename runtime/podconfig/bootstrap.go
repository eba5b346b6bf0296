package podconfig

import (
	"strings"

	"github.com/katabuild/katabuild/internal/sandboxapi/sandboxpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// RuntimeOptions finds the options of a runtime in what containerd writes to a shim that it starts: the options alone
// up to containerd 2.3, a message that has them among others since 2.4. nil is none. ends says by what the names of
// their types end.
func RuntimeOptions(input []byte, ends ...string) *anypb.Any {
	is := func(a *anypb.Any) bool {
		for _, e := range ends {
			if strings.HasSuffix(a.GetTypeUrl(), e) {
				return true
			}
		}
		return false
	}
	var alone anypb.Any
	if err := proto.Unmarshal(input, &alone); err == nil && is(&alone) {
		return &anypb.Any{TypeUrl: alone.TypeUrl, Value: alone.Value}
	}
	var all sandboxpb.BootstrapParams
	if proto.Unmarshal(input, &all) != nil {
		return nil
	}
	for _, e := range all.Extensions {
		if is(e.Value) {
			return e.Value
		}
	}
	return nil
}
