package agent

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/agent/container"
	"github.com/katabuild/katabuild/agent/serve"
)

// containers is a container.Runner as the API wants it.
type containers struct{ *container.Runner }

func (r containers) Create(ctx context.Context, id string, spec *specs.Spec, stdio container.Stdio) (serve.Container,
	error) {
	c, err := r.Runner.Create(ctx, id, spec, stdio)
	if err != nil {
		return nil, err
	}
	return one{c}, nil
}

func (r containers) Container(id string) (serve.Container, error) {
	c, err := r.Runner.Container(id)
	if err != nil {
		return nil, err
	}
	return one{c}, nil
}

func (r containers) Containers() []serve.Container {
	var out []serve.Container
	for _, c := range r.Runner.Containers() {
		out = append(out, one{c})
	}
	return out
}

// one is a container as the API wants it.
type one struct{ *container.Container }

func (c one) Process(exec string) (serve.Process, error) {
	p, err := c.Container.Process(exec)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (c one) Exec(ctx context.Context, exec string, spec *specs.Process, stdio container.Stdio) (serve.Process, error) {
	p, err := c.Container.Exec(ctx, exec, spec, stdio)
	if err != nil {
		return nil, err
	}
	return p, nil
}
