"""Control of a model by drawings, depth maps, poses and their like."""
