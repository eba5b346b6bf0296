package initrd

import (
	"context"
	"errors"

	"github.com/katabuild/katabuild/internal/artifact"
)

func urootInputs(Request) ([]artifact.Input, error)       { return nil, errors.New("later") }
func urootBuild(context.Context, Request) ([]File, error) { return nil, errors.New("later") }
