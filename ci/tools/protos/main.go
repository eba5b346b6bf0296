// Protos writes the Go code of the guest API, and of containerd's sandbox service, from their .proto files, without
// protoc: a compiler of a Go module reads them, and the generators are those of go.mod beside this folder. With -check
// it writes nothing, and exits with 1 where a file is not what it would write.
//
// usage: protos [-check], in the folder of the repository; protoc-gen-go and protoc-gen-go-ttrpc lie beside the program
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// folders have .proto files below proto, and a folder of Go code for each Go package that these name.
var folders = []string{"internal/agentapi", "internal/sandboxapi"}

// module is this repository's.
const module = "github.com/katabuild/katabuild/"

// noise is the line with the compiler's version, which says nothing about the code.
var noise = regexp.MustCompile(`(?m)^// \tprotoc  *(v|\().*\n`)

func main() {
	check := flag.Bool("check", false, "write nothing; fail where a file is not current")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "protos:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if err := write(folder, filepath.Dir(self), check); err != nil {
			return err
		}
	}
	return nil
}

// write writes the code for one folder.
func write(folder, plugins string, check bool) error {
	files, err := compile(filepath.Join(folder, "proto"))
	if err != nil {
		return err
	}
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-ttrpc"} {
		out, err := generate(filepath.Join(plugins, plugin), "module="+module+folder, files)
		if err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
		for _, f := range out {
			path := filepath.Join(folder, f.GetName())
			text, err := format.Source(noise.ReplaceAll([]byte(f.GetContent()), nil))
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
				continue
			}
			if check {
				return fmt.Errorf("%s is not what its .proto says: run make generate", path)
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
			fmt.Println(path)
		}
	}
	return nil
}

// compile reads all .proto files below dir.
func compile(dir string) (linker.Files, error) {
	var names []string
	for _, pattern := range []string{"*/*.proto", "*/*/*.proto"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			name, err := filepath.Rel(dir, p)
			if err != nil {
				return nil, err
			}
			names = append(names, filepath.ToSlash(name))
		}
	}
	slices.Sort(names)
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	return c.Compile(context.Background(), names...)
}

// generate asks a generator for the code of files.
func generate(plugin, option string, files linker.Files) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	req := &pluginpb.CodeGeneratorRequest{Parameter: proto.String(option)}
	seen := map[string]bool{}
	var add func(f protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		req.ProtoFile = append(req.ProtoFile, fileProto(f))
	}
	for _, f := range files {
		add(f)
		req.FileToGenerate = append(req.FileToGenerate, f.Path())
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var res pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &res); err != nil {
		return nil, err
	}
	if res.Error != nil {
		return nil, fmt.Errorf("%s", res.GetError())
	}
	return res.File, nil
}

func fileProto(f protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	return protoutil.ProtoFromFileDescriptor(f)
}
