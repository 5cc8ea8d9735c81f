package api

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// Base is a public image from which the hypervisor makes disks.
type Base struct {
	Name   string `json:"name"`
	Size   int64  `json:"size" doc:"Bytes."`
	SHA256 string `json:"sha256" doc:"Hex, as the server computed it. Not verified: a tenant takes it from where the image is published."`
}

// BaseList is all that is offered.
type BaseList struct {
	Bases []Base `json:"bases" nullable:"false"`
}

// NewBlank makes an image for a disk that is to be made from a base image.
type NewBlank struct {
	Name string `json:"name" minLength:"1" maxLength:"512" doc:"For people; need not be unique."`
	Size int64  `json:"size" minimum:"1" doc:"Bytes of the image: of the disk and its header."`
}

type blankInput struct {
	Name string `path:"name" maxLength:"128"`
	Body NewBlank
}

func (s *Server) baseRoutes() {
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/bases", "list-bases", "All public base images", 0),
		func(ctx context.Context, _ *struct{}) (*body[BaseList], error) {
			list, err := s.opts.Store.Bases(ctx)
			if err != nil {
				return nil, fail(ctx, err)
			}
			out := BaseList{Bases: make([]Base, len(list))}
			for i, b := range list {
				out.Bases[i] = Base{b.Name, b.Size, hex.EncodeToString(b.SHA256[:])}
			}
			return &body[BaseList]{out}, nil
		})
	blank := s.operation(http.MethodPost, "/v1/bases/{name}/images", "create-blank-image", "Make an image for a disk that the hypervisor makes from a base image", 16<<10, 403, 404, 409, 413, 507)
	blank.Description = "Nothing is uploaded to it: the command build of its VM fills it. The same request again returns the image that no VM has yet."
	huma.Register(s.api, blank, func(ctx context.Context, in *blankInput) (*body[Image], error) {
		img, err := s.blank(ctx, in)
		return imageAnswer(ctx, img, err)
	})
}

func (s *Server) blank(ctx context.Context, in *blankInput) (*store.Image, error) {
	b, err := s.opts.Store.Base(ctx, in.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, problem.NotFound("base image", in.Name)
	case err != nil:
		return nil, problem.Internal(err)
	case in.Body.Size < b.Size || in.Body.Size > images.MaxSize:
		return nil, problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "an image of %d bytes is no room for the base image's %d, or is larger than 64 TiB", in.Body.Size, b.Size)
	}
	return s.opts.Images.CreateBlank(ctx, tenantOf(ctx), in.Body.Name, b.Name, in.Body.Size)
}
