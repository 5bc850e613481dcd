"""A real pair of radiographs to the network's input: orientation, placement, scale, augmentation."""
