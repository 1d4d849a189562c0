"""What concepts are taught and how their pictures are judged: the pocket world, and folders of photographs."""
