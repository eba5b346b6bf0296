package flow

import (
	"context"
	"io"
)

// Until is r until ctx ends; then reading fails with the cause.
func Until(ctx context.Context, r io.Reader) io.Reader { return &untilDone{ctx, r} }

type untilDone struct {
	ctx context.Context // the reader lives as long as the work it is read for
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(b)
}
